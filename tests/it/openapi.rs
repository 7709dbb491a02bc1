//! The API document: it has every route, the page shows it, and what the daemon answers is
//! in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::daemon::Daemon;

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let daemon = Daemon::start(&[]).await;
    let (status, document) = daemon.get("/openapi.json").await;
    assert_eq!(status, 200);
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let public = operation["security"] == serde_json::json!([{}]);
            let refuses = operation["responses"].get("401").is_some();
            assert_eq!(public, !refuses, "{method} {path}");
            described.insert((path.clone(), method.to_uppercase(), public));
        }
    }
    let routes = rollcalld::http::routes().into_iter();
    let routes: BTreeSet<_> = routes
        .map(|(pattern, method, role)| (pattern.to_owned(), method.to_owned(), role.is_none()))
        .collect();
    assert_eq!(described, routes);
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let daemon = Daemon::start(&[]).await;
    let get = async |path: &str| {
        let url = format!("{}{path}", daemon.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let policy = answer.headers().get("content-security-policy").cloned();
        (policy, answer.text().await.unwrap())
    };
    let (policy, page) = get("/docs").await;
    let policy = policy.unwrap();
    assert!(policy.to_str().unwrap().starts_with("default-src 'self';"));
    assert!(!page.contains("://"), "{page}");
    let parts = page.split(['"', '\'']).filter_map(|text| {
        let file = text.strip_prefix("./").unwrap_or(text);
        [".js", ".css", ".png"]
            .iter()
            .any(|end| file.ends_with(end))
            .then_some(file)
    });
    let parts: Vec<&str> = parts.collect();
    assert!(parts.len() >= 5, "{parts:?}");
    for part in parts {
        get(&format!("/docs/{part}")).await;
    }
    let (_, start) = get("/docs/swagger-initializer.js").await;
    assert!(
        start.contains("/openapi.json") && !start.contains("://"),
        "{start}"
    );
    assert_eq!(daemon.get("/docs/../Cargo.toml").await.0, 404);
    assert_eq!(daemon.get("/docs/none.js").await.0, 404);
}

/// Generated requests, good and bad, against every operation but the stream, which does not
/// end, and the parts of the pages.
#[tokio::test]
async fn generated_requests_find_no_fault_and_no_answer_that_is_not_described() {
    let daemon = Daemon::start(&[]).await;
    // One instance, so that some requests find what they ask for.
    let orders = "/v1/services/orders/instances/10.0.0.5:8080";
    daemon.put(orders, Value::Object(Default::default())).await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/schemathesis");
    assert!(
        program.exists(),
        "schemathesis is missing; tests/run installs what the tests need"
    );
    let run = Command::new(program)
        .arg("run")
        .arg(format!("{}/openapi.json", daemon.url()))
        .args(["--exclude-path", "/v1/events"])
        .args(["--exclude-path", "/docs/{file}"])
        .args(["--exclude-path", "/console/{file}"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"])
        .args(["--max-examples", "50", "--request-timeout", "20"])
        .current_dir(daemon.dir())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{text}");
    let tested = text
        .lines()
        .find(|line| line.trim().starts_with("Tested: "));
    let count: Option<usize> = tested.and_then(|line| line.split(": ").nth(1)?.trim().parse().ok());
    assert!(count.is_some_and(|count| count >= 22), "{text}");
}
