"""Checks that the description of the API is complete.

Each operation must have a summary of one line, examples of its JSON, and the errors that it can
report, and each example must match its schema. Prints what is missing, and where to add it. The
package jsonschema_rs is a dependency of schemathesis.
"""

import json
import re
import sys

import jsonschema_rs
from door import ROOT

HANDLERS = sorted((ROOT / "src/api").glob("**/*.rs"))
EXAMPLES = "src/api/web/examples.json"
MAX_SUMMARY = 100
# Requests with these paths need no login.
OPEN = {"/api/v1/session"}
api = json.loads((ROOT / "docs/openapi.json").read_text())


def handler(method, path):
    """Returns the file and the line of the annotation of a handler."""
    start = re.compile(rf'#\[utoipa::path\(\s*{method}, path = "{re.escape(path.removeprefix("/api/v1"))}"')
    for file in HANDLERS:
        text = file.read_text()
        found = start.search(text)
        if found:
            return f"{file.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}"
    return "src/api"


def mismatch(content):
    """Returns why an example is missing or does not match its schema. Only JSON needs an example."""
    media = content.get("application/json")
    if media is None:
        return None
    if "example" not in media:
        return "has no example"
    schema = {**media["schema"], "components": api["components"]}
    error = next(jsonschema_rs.validator_for(schema).iter_errors(media["example"]), None)
    return error and f"has an example that does not match: {error.message}"


def problems(method, path, operation):
    summary = operation.get("summary", "")
    if not summary or "\n" in summary or len(summary) > MAX_SUMMARY:
        yield f"has no summary of one line with at most {MAX_SUMMARY} characters"
    body = operation.get("requestBody")
    if body and (why := mismatch(body["content"])):
        yield f"the request {why}"
    responses = operation["responses"]
    for status, response in responses.items():
        if "$ref" in response:
            response = api["components"]["responses"][response["$ref"].rpartition("/")[2]]
        # The errors in `default` differ.
        if status != "default" and (why := mismatch(response.get("content", {}))):
            yield f"the response {status} {why}"
    needed = {"403", "421"}
    if path not in OPEN:
        needed.add("401")
    if body:
        needed |= {"408", "413"}
    if "{" in path:
        needed.add("404")
    for status in sorted(needed - responses.keys()):
        yield f"the error {status} is missing"


def main():
    count = 0
    found = []
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            count += 1
            name = f"{method.upper()} {path}"
            for problem in problems(method, path, operation):
                found.append(f"{name}: {problem}: see {handler(method, path)} and {EXAMPLES}")
    for kind, name in re.findall(r'"\$ref": "#/components/(\w+)/([^"]+)"', json.dumps(api)):
        if name not in api["components"][kind]:
            found.append(f"{kind} has no {name}, to which something refers")
    for problem in found:
        print(problem)
    if found or count < 30:
        sys.exit(f"the descriptions of {count} operations have {len(found)} problems")
    print(f"{count} operations are described")


main()
