#!/usr/bin/env bash
# Two sites, from upload to report, with curl alone: API_KEY=leap_live_... examples/curl.sh
set -euo pipefail
: "${API_KEY:?is missing. Usage: API_KEY=leap_live_... examples/curl.sh}"
url=${API_URL:-http://127.0.0.1:8000}

request() { curl --silent --show-error --fail-with-body --header "x-api-key: $API_KEY" "$@"; }
# The first value of a member, without needing jq.
member() { grep -o "\"$1\" *: *\"[^\"]*\"" | awk -F '"' 'NR == 1 { print $4 }'; }

job_id=$(request "$url/batch-lookups" --json '{"items": [
  {"reference_id": "city-hall", "building_type": "RESIDENTIAL", "device_ids": [1, 20],
   "address": {"street_1": "200 N Spring St", "city": "Los Angeles", "state_or_province_code": "CA", "postal_code": "90012", "country_code": "US"}},
  {"reference_id": "state-house", "building_type": "RESIDENTIAL", "device_ids": [1],
   "address": {"street_1": "24 Beacon St", "city": "Boston", "state_or_province_code": "MA", "postal_code": "02133", "country_code": "US"}}
]}' | member job_id)

status=pending
while [ "$status" = pending ] || [ "$status" = processing ]; do
    sleep 0.5
    job=$(request "$url/batch-lookups/$job_id")
    status=$(member status <<<"$job")
done

request "$url/batch-lookups/$job_id/items"
request "$url/incentive-reports/$(member report_id <<<"$job")"
