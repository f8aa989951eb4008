//! `/openapi.json`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::centre::Centre;

fn each_value<'a>(value: &'a Value, see: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            see(name, member);
            each_value(member, see);
        }),
        Value::Array(items) => items.iter().for_each(|item| each_value(item, see)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_is_complete_and_only_changes_on_purpose() {
    let centre = Centre::start().await;
    let answer = centre.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let mut document = answer.json();

    each_value(&document, &mut |name, value| {
        if name == "$ref" {
            let pointer = value.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(
                document.pointer(pointer).is_some(),
                "{pointer} leads nowhere"
            );
        }
    });
    let paths: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        paths,
        BTreeSet::from([
            "/avg-speed",
            "/kvfv",
            "/kvfv/{kvfv_id}",
            "/kvfv/{kvfv_id}/avg-speed",
            "/kvfv/{kvfv_id}/ledger"
        ])
    );
    for (path, item) in document["paths"].as_object().unwrap() {
        let responses = item["get"]["responses"].as_object().unwrap();
        assert!(
            responses.contains_key("200") && responses.contains_key("503"),
            "{path}"
        );
        for (status, response) in responses {
            let kind = if status == "200" {
                "application/json"
            } else {
                "application/problem+json"
            };
            assert!(
                response["content"][kind]["schema"]["$ref"].is_string(),
                "{path} {status}"
            );
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name} is not described");
        for (property, inner) in schema["properties"].as_object().into_iter().flatten() {
            let described = ["description", "$ref", "oneOf"]
                .iter()
                .any(|key| !inner[key].is_null());
            assert!(described, "{name}.{property} is not described");
        }
    }
    document["info"]["version"] = "[version]".into();
    insta::assert_json_snapshot!(document);
}
