//! The examples and the errors in the description of the API.
//!
//! `examples.json` has an example of the request and of the response of each operation, and the
//! statuses with which the operation can report an error. `tests/web/description.py` checks that
//! nothing is missing and that each example matches its schema. This module knows nothing about
//! what an operation does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{
    Content, ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder,
};

const EXAMPLES: &str = include_str!("examples.json");
/// The content type of requests and responses that have examples.
const JSON: &str = "application/json";
/// The schema of all errors.
const ERROR: &str = "ErrorRecord";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    /// What each status of an error means.
    statuses: BTreeMap<String, Status>,
    /// The examples of each operation, such as `GET /api/v1/status`.
    operations: BTreeMap<String, OperationExamples>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    description: String,
    /// The example for operations that do not have one of their own.
    example: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationExamples {
    request: Option<Value>,
    response: Option<Value>,
    /// The statuses of the errors, with examples. `null` stands for the example of the status.
    errors: BTreeMap<String, Option<Value>>,
}

impl Status {
    fn response(&self, example: &Value) -> Response {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(ERROR)))
            .example(Some(example.clone()))
            .build();
        ResponseBuilder::new()
            .description(&self.description)
            .content(JSON, content)
            .build()
    }
}

/// Adds the examples and the errors of all operations to the description of the API.
pub(super) fn add_to(api: &mut OpenApi) {
    // Parsing a file that is part of the program cannot fail. Without examples, the test of the
    // documented description would fail.
    let examples: Examples = serde_json::from_str(EXAMPLES).unwrap_or_default();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            if let Some(own) = examples.operations.get(&format!("{method} {path}")) {
                describe(operation, own, &examples.statuses);
            }
        }
    }
    let responses = &mut api.components.get_or_insert_default().responses;
    for (name, status) in &examples.statuses {
        let response = status.response(&status.example);
        responses.insert(name.clone(), RefOr::T(response));
    }
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let all = [
        ("DELETE", &mut item.delete),
        ("GET", &mut item.get),
        ("PATCH", &mut item.patch),
        ("POST", &mut item.post),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
        .collect()
}

fn describe(
    operation: &mut Operation,
    own: &OperationExamples,
    statuses: &BTreeMap<String, Status>,
) {
    if let (Some(RefOr::T(body)), Some(example)) = (&mut operation.request_body, &own.request) {
        set_example(body.content.get_mut(JSON), example);
    }
    let responses = &mut operation.responses.responses;
    if let (Some(RefOr::T(response)), Some(example)) = (responses.get_mut("200"), &own.response) {
        set_example(response.content.get_mut(JSON), example);
    }
    for (name, example) in &own.errors {
        match (responses.get_mut(name), statuses.get(name), example) {
            // The annotation of the handler describes this error, for example its headers.
            (Some(RefOr::T(response)), _, Some(example)) => {
                set_example(response.content.get_mut(JSON), example);
            }
            (None, Some(status), Some(example)) => {
                let response = status.response(example);
                responses.insert(name.clone(), RefOr::T(response));
            }
            (None, Some(_), None) => {
                let shared = Ref::from_response_name(name);
                responses.insert(name.clone(), RefOr::Ref(shared));
            }
            _ => {}
        }
    }
}

fn set_example(content: Option<&mut RefOr<Content>>, example: &Value) {
    let Some(content) = content else { return };
    if let RefOr::T(content) = content {
        content.example = Some(example.clone());
    }
}
