// The page lists what the credentials of a user can call: nothing that the description marks with x-internal.
function withoutInternal(response) {
  if (!response.url.endsWith("/openapi.json")) return response;
  const description = JSON.parse(response.text, (key, value) => (value?.["x-internal"] ? undefined : value));
  return { ...response, text: JSON.stringify(description) };
}

// Swagger UI takes every media type with "json" in its name for JSON, and would put an example of NDJSON between quotation marks.
const RawNdjson = {
  afterLoad() {
    const sample = this.fn.getSampleSchema;
    this.fn.getSampleSchema = (schema, mediaType, ...rest) => {
      const text = sample(schema, mediaType, ...rest);
      return mediaType === "application/x-ndjson" ? JSON.parse(text) : text;
    };
  },
};

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  responseInterceptor: withoutInternal,
  plugins: [() => RawNdjson],
});
