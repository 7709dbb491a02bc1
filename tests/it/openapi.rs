//! The API document: it has every route, the page shows it, and it describes what the daemon
//! answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use rollcalld::http::Code;
use serde_json::{Value, json};
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
            // The original's API refuses with status 200.
            let is_original = path.starts_with("/gateway-");
            assert_eq!(public || is_original, !refuses, "{method} {path}");
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

/// The path parameters of one existing instance, so that requests find it, and the expected
/// answers to valid requests.
const CONFIG: &str = r#"
[parameters]
"path.kind" = "services"
"path.key" = "orders"
"path.address" = "10.0.0.5:8080"

[checks]
positive_data_acceptance.expected-statuses = ["2xx"]
"#;

/// Runs schemathesis against a daemon with one instance. Returns how many operations it tested.
async fn schemathesis(daemon: &Daemon, config: &str, arguments: &[&str]) -> usize {
    // So that some requests find an instance.
    let orders = "/v1/services/orders/instances/10.0.0.5:8080";
    daemon.put(orders, Value::Object(Default::default())).await;
    // It reads this file where it runs.
    std::fs::write(daemon.dir().join("schemathesis.toml"), config).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/schemathesis");
    assert!(
        program.exists(),
        "schemathesis is missing; tests/run installs what the tests need"
    );
    let run = Command::new(program)
        .arg("run")
        .arg(format!("{}/openapi.json", daemon.url()))
        .args(["--max-examples", "50", "--request-timeout", "20"])
        .args(arguments)
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
        .find_map(|line| line.trim().strip_prefix("Tested: "));
    tested
        .unwrap_or_else(|| panic!("{text}"))
        .trim()
        .parse()
        .unwrap()
}

/// Generated requests, good and bad, against every operation but the stream, which does not
/// end, and the parts of the pages.
#[tokio::test]
async fn generated_requests_find_no_fault_and_no_answer_that_is_not_described() {
    let daemon = Daemon::start(&[]).await;
    let arguments = [
        "--exclude-path",
        "/v1/events",
        "--exclude-path",
        "/docs/{file}",
        "--exclude-path",
        "/console/{file}",
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ];
    assert!(schemathesis(&daemon, "", &arguments).await >= 22);
}

/// Generated registrations and declarations that the document allows, its extreme values
/// included.
#[tokio::test]
async fn what_the_document_allows_is_accepted() {
    let daemon = Daemon::start(&[]).await;
    let arguments = [
        "--include-operation-id",
        "register",
        "--include-operation-id",
        "declare_scope",
        "--mode",
        "positive",
        // The extreme values. Random ones have whole numbers as 5.0, which the daemon rejects.
        "--phases",
        "coverage",
        "--checks",
        "positive_data_acceptance",
    ];
    assert_eq!(schemathesis(&daemon, CONFIG, &arguments).await, 2);
}

#[tokio::test]
async fn the_limits_of_the_document_are_the_limits_of_the_daemon() {
    let daemon = Daemon::start(&[]).await;
    let instance = "/v1/services/orders/instances/10.0.0.5:8080";
    daemon.put(instance, json!({})).await;
    let (_, document) = daemon.get("/openapi.json").await;
    let limit = |schema: &str, field: &str, limit: &str| {
        let field = &document["components"]["schemas"][schema]["properties"][field];
        field[limit].as_u64().unwrap_or_else(|| panic!("{field}"))
    };
    let text = |chars: u64| json!("名".repeat(usize::try_from(chars).unwrap()));
    let entries =
        |count: u64| -> Value { (0..count).map(|i| (i.to_string(), json!(""))).collect() };
    let name = limit("Registration", "name", "maxLength");
    let (min_ttl, max_ttl) = (
        limit("Registration", "ttl_seconds", "minimum"),
        limit("Registration", "ttl_seconds", "maximum"),
    );
    let metadata = limit("Registration", "metadata", "maxProperties");
    let weight = limit("Registration", "weight", "maximum");
    for (field, accepted, rejected) in [
        ("name", text(name), text(name + 1)),
        ("ttl_seconds", json!(min_ttl), json!(min_ttl - 1)),
        ("ttl_seconds", json!(max_ttl), json!(max_ttl + 1)),
        ("metadata", entries(metadata), entries(metadata + 1)),
        ("weight", json!(weight), json!(weight + 1)),
    ] {
        let put = async |value| daemon.put(instance, json!({field: value})).await.0;
        assert_eq!(put(accepted).await, 200, "{field}");
        assert_eq!(put(rejected).await, 400, "{field}");
    }
    let reason = limit("Change", "reason", "maxLength");
    let hold = async |chars| {
        let body = json!({"status": "held", "reason": text(chars)});
        daemon.patch(instance, body).await.0
    };
    assert_eq!(hold(reason).await, 200);
    assert_eq!(hold(reason + 1).await, 400);
}

#[tokio::test]
async fn every_code_is_in_the_document_with_its_status() {
    let daemon = Daemon::start(&[]).await;
    let (_, document) = daemon.get("/openapi.json").await;
    let schema = &document["components"]["schemas"]["Problem"]["properties"]["code"];
    let schema = match schema["$ref"].as_str() {
        Some(path) => document.pointer(&path[1..]).unwrap(),
        None => schema,
    };
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(schema["enum"], json!(codes));
    let described: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .flat_map(|operation| operation["responses"].as_object().unwrap().keys())
        .map(String::as_str)
        .collect();
    // The router answers these itself, before it knows the operation.
    let of_no_operation = [405, 417];
    for code in Code::ALL {
        let status = code.status().as_u16();
        assert!(
            described.contains(status.to_string().as_str()) || of_no_operation.contains(&status),
            "{code:?}"
        );
    }
}
