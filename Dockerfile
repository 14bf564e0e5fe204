# The API, the worker and the migrations; the command says which: serve (default), worker, migrate.
FROM python:3.12-slim-bookworm AS libraries
WORKDIR /build
COPY requirements.lock pyproject.toml ./
# "server otel": also the libraries that send traces.
ARG EXTRAS=server
# Verify all wheels by hash, and install only what is needed to run.
RUN python -m pip wheel --quiet --no-deps --require-hashes --requirement requirements.lock --wheel-dir wheels \
 && python -c "import sys, tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; print('\n'.join(sum(map(extras.get, sys.argv[1:]), [])))" $EXTRAS > needed.txt \
 && python -m venv /opt/libraries \
 && /opt/libraries/bin/pip install --quiet --no-index --find-links wheels --requirement needed.txt

FROM libraries AS portal
RUN python -m pip install --quiet --no-index --find-links wheels deno
COPY openapi.json ./
COPY portal ./portal
RUN cd portal && deno install --quiet --frozen && deno task --quiet build && deno task --quiet clerk

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin batch-lookups
COPY --from=libraries /opt/libraries /opt/libraries
WORKDIR /app
COPY openapi.json ./
COPY migrations ./migrations
COPY sql ./sql
COPY pyshell ./pyshell
COPY --from=portal /build/portal/dist ./portal/dist
ENV PATH=/opt/libraries/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
USER 10001
EXPOSE 8000
ENTRYPOINT ["python", "-m", "pyshell"]
CMD ["serve"]
