//! An invalid request is answered with a stable code and the field, writes nothing, and does
//! not disturb the daemon.

use std::time::Duration;

use reqwest::header::{ALLOW, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backends::{Backends, Embedded, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::raw;

on_both_backends! {
    each_wrong_body_names_its_field,
    each_wrong_path_names_its_part,
    an_unknown_path_and_a_wrong_method_are_problems,
    what_is_too_large_is_413,
    a_body_must_say_that_it_is_json,
    garbage_on_the_wire_does_not_hurt,
    a_body_that_ends_early_or_never_is_a_problem,
}

const INSTANCE: &str = "/v1/services/orders/instances/a:1";

async fn send(daemon: &Daemon, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
    let request = daemon
        .client()
        .request(method, format!("{}{path}", daemon.url()))
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_owned());
    let answer = request.send().await.unwrap();
    let status = answer.status();
    assert_eq!(
        answer.headers()[CONTENT_TYPE],
        "application/problem+json",
        "{path} {body}"
    );
    (status, answer.json().await.unwrap())
}

/// Asserts the whole problem.
fn is_problem(answer: &(StatusCode, Value), code: &str, field: Option<&str>, detail: &str) {
    let (status, body) = answer;
    let mut expected = json!({
        "title": status.canonical_reason().unwrap(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    if let Some(field) = field {
        expected["field"] = json!(field);
    }
    assert_eq!(*body, expected);
}

async fn nothing_was_written(daemon: &Daemon) {
    assert_eq!(daemon.get("/v1/services").await.1, json!({"services": []}));
    assert_eq!(daemon.get("/v1/groups").await.1, json!({"groups": []}));
    assert_eq!(daemon.get("/readyz").await.0, 200);
}

/// Method, path and body; code, field and detail of the problem.
type Case<'a> = (Method, &'a str, String, &'a str, Option<&'a str>, String);

async fn each_wrong_body_names_its_field<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let too_many: Value = (0..65)
        .map(|i| (format!("k{i}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let (long, large) = ("n".repeat(101), "v".repeat(8200));
    let key_rule =
        "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike";
    let cases: Vec<Case<'_>> = vec![
        (Method::PUT, INSTANCE, "{".into(), "invalid_json", None,
            "the body is not JSON: EOF while parsing an object at line 1 column 1".into()),
        (Method::PUT, INSTANCE, "{} {}".into(), "invalid_json", None,
            "the body is not JSON: trailing characters at line 1 column 4".into()),
        (Method::PUT, INSTANCE, "\u{feff}{}".into(), "invalid_json", None,
            "the body is not JSON: expected value at line 1 column 1".into()),
        (Method::PUT, INSTANCE, "[]".into(), "invalid_field", Some("body"),
            "body has the wrong form: invalid type: sequence, expected an object".into()),
        (Method::PUT, INSTANCE, "7".into(), "invalid_field", Some("body"),
            "body has the wrong form: invalid type: integer `7`, expected an object".into()),
        (Method::PUT, INSTANCE, json!({"wieght": 1}).to_string(), "unknown_field", Some("wieght"),
            "wieght has the wrong form: unknown field `wieght`, expected one of `name`, `weight`, `metadata`, `ttl_seconds`".into()),
        (Method::PUT, INSTANCE, json!({"weight": -1}).to_string(), "invalid_field", Some("weight"),
            "weight must be a whole number from 0 to 65535, not -1".into()),
        (Method::PUT, INSTANCE, json!({"weight": "1"}).to_string(), "invalid_field", Some("weight"),
            "weight has the wrong form: invalid type: string \"1\", expected i64".into()),
        (Method::PUT, INSTANCE, json!({"weight": 1.5}).to_string(), "invalid_field", Some("weight"),
            "weight has the wrong form: invalid type: floating point `1.5`, expected i64".into()),
        (Method::PUT, INSTANCE, json!({"name": " "}).to_string(), "invalid_field", Some("name"),
            "name must not be blank".into()),
        (Method::PUT, INSTANCE, json!({"name": long}).to_string(), "invalid_field", Some("name"),
            "name must have at most 100 characters, not 101".into()),
        (Method::PUT, INSTANCE, json!({"ttl_seconds": 4}).to_string(), "invalid_field", Some("ttl_seconds"),
            "ttl_seconds must be from 5 to 3600 whole seconds, not 4".into()),
        (Method::PUT, INSTANCE, json!({"metadata": {"a": 1}}).to_string(), "invalid_field", Some("metadata.a"),
            "metadata.a has the wrong form: invalid type: integer `1`, expected a string".into()),
        (Method::PUT, INSTANCE, json!({"metadata": too_many}).to_string(), "invalid_field", Some("metadata"),
            "metadata must have at most 64 entries, not 65".into()),
        (Method::PUT, INSTANCE, json!({"metadata": {"a": large}}).to_string(), "invalid_field", Some("metadata"),
            "metadata must have at most 8192 bytes as JSON, not 8208".into()),
        (Method::PUT, INSTANCE, json!({"metadata": {"a": "\0"}}).to_string(), "invalid_field", Some("metadata"),
            "metadata must not hold the character U+0000".into()),
        (Method::PUT, INSTANCE, r#"{"metadata": {"zone": "a", "b": "", "zone": "c"}}"#.into(), "invalid_field", Some("metadata"),
            "metadata must not have the entry \"zone\" twice".into()),
        (Method::PUT, "/v1/groups/edge", json!({"name": ""}).to_string(), "invalid_field", Some("name"),
            "name must not be blank".into()),
        (Method::PATCH, INSTANCE, json!({}).to_string(), "invalid_field", Some("body"),
            "body must contain status, weight or metadata".into()),
        (Method::PATCH, INSTANCE, json!({"status": "on"}).to_string(), "invalid_field", Some("status"),
            "status has the wrong form: unknown variant `on`, expected one of `enabled`, `disabled`, `held`".into()),
        (Method::PATCH, INSTANCE, json!({"status": "enabled", "reason": "r"}).to_string(), "invalid_field", Some("reason"),
            "reason is allowed only with \"status\":\"held\"".into()),
        (Method::POST, "/v1/registrations", json!({}).to_string(), "invalid_field", Some("body"),
            "body has the wrong form: missing field `registrations`".into()),
        (Method::POST, "/v1/heartbeats", json!({}).to_string(), "invalid_field", Some("body"),
            "body has the wrong form: missing field `leases`".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"service": "a:b", "address": "a:1"}]}).to_string(),
            "invalid_field", Some("leases[0].service"), format!("leases[0].service {key_rule} \"a:b\"")),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"service": "a", "address": "a:1"}, {"service": "a", "address": "a"}]}).to_string(),
            "invalid_field", Some("leases[1].address"), "leases[1].address must be host:port, unlike \"a\"".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [["a", null, "a:1"]]}).to_string(),
            "invalid_field", Some("leases[0]"), "leases[0] has the wrong form: invalid type: sequence, expected an object".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"service": "a"}]}).to_string(),
            "invalid_field", Some("leases[0]"), "leases[0] has the wrong form: missing field `address`".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"address": "a:1"}]}).to_string(),
            "invalid_field", Some("leases[0]"), "leases[0] must contain either service or group".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"service": "a", "group": "b", "address": "a:1"}]}).to_string(),
            "invalid_field", Some("leases[0]"), "leases[0] must contain either service or group".into()),
        (Method::POST, "/v1/heartbeats", json!({"leases": [{"service": "a", "address": "a:1", "x": 1}]}).to_string(),
            "unknown_field", Some("leases[0].x"), "leases[0].x has the wrong form: unknown field `x`, expected one of `service`, `group`, `address`".into()),
    ];
    for (method, path, body, code, field, detail) in cases {
        let answer = send(&daemon, method, path, &body).await;
        assert_eq!(answer.0, 400, "{body}");
        is_problem(&answer, code, field, &detail);
    }
    nothing_was_written(&daemon).await;
}

async fn each_wrong_path_names_its_part<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let key_rule =
        "must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike";
    let too_long = format!("/v1/groups/{}", "k".repeat(101));
    for (path, field, detail) in [
        ("/v1/services/a:b", "service", format!("service {key_rule} \"a:b\"")),
        ("/v1/groups/*", "group", format!("group {key_rule} \"*\"")),
        ("/v1/groups/%2A", "group", format!("group {key_rule} \"*\"")),
        ("/v1/groups/a%2Fb", "group", format!("group {key_rule} \"a/b\"")),
        ("/v1/groups/%E8%AE%A2", "group", format!("group {key_rule} \"订\"")),
        ("/v1/groups/.hidden", "group", format!("group {key_rule} \".hidden\"")),
        (too_long.as_str(), "group", "group must have at most 100 characters, not 101".into()),
        ("/v1/services/s/instances/host", "address", "address must be host:port, unlike \"host\"".into()),
        ("/v1/services/s/instances/host:0", "address",
            "address must end in a port from 1 to 65535, unlike \"host:0\"".into()),
        ("/v1/services/s/instances/host:70000", "address",
            "address must end in a port from 1 to 65535, unlike \"host:70000\"".into()),
        ("/v1/services/s/instances/u@host:80", "address",
            "address must have a host name, an IPv4 address or an [IPv6] address before the port, unlike \"u@host:80\"".into()),
        ("/v1/services/a*b/instances/host:80", "service", format!("service {key_rule} \"a*b\"")),
    ] {
        let answer = send(&daemon, Method::PUT, path, "{}").await;
        assert_eq!(answer.0, 400, "{path}");
        is_problem(&answer, "invalid_field", Some(field), &detail);
    }
    for (query, code, field, detail) in [
        (
            "availabl=true",
            "invalid_field",
            "availabl",
            "availabl is not a parameter of this route; it has q, status, online, available, metadata.KEY, address, wait, since, fields",
        ),
        (
            "available=maybe",
            "invalid_field",
            "available",
            "available must be true or false",
        ),
    ] {
        let answer = daemon
            .get(&format!("/v1/services/s/instances?{query}"))
            .await;
        assert_eq!(answer.0, 400, "{query}");
        is_problem(&answer, code, Some(field), detail);
    }
    nothing_was_written(&daemon).await;
}

async fn an_unknown_path_and_a_wrong_method_are_problems<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for path in [
        "/v2/services",
        "/v1/servers",
        "/v1/services/",
        "//v1/services",
        "/V1/services",
        "/v1",
    ] {
        let answer = daemon.get(path).await;
        assert_eq!(answer.0, 404, "{path}");
        is_problem(
            &answer,
            "route_not_found",
            None,
            &format!("no route has the path {path:?}"),
        );
    }
    for (method, path, allow) in [
        (Method::POST, "/v1/services", "GET, HEAD, OPTIONS"),
        (
            Method::POST,
            INSTANCE,
            "GET, HEAD, PUT, PATCH, DELETE, OPTIONS",
        ),
        (Method::GET, "/v1/heartbeats", "POST, OPTIONS"),
        (Method::DELETE, "/livez", "GET, HEAD, OPTIONS"),
    ] {
        let request = daemon
            .client()
            .request(method, format!("{}{path}", daemon.url()));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()[ALLOW], allow, "{path}");
        let answer = (answer.status(), answer.json().await.unwrap());
        assert_eq!(answer.0, 405, "{path}");
        is_problem(
            &answer,
            "method_not_allowed",
            None,
            &format!("this path supports only {allow}"),
        );
    }
    nothing_was_written(&daemon).await;
}

async fn what_is_too_large_is_413<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let body = json!({"name": "n".repeat(64 * 1024)}).to_string();
    let answer = send(&daemon, Method::PUT, INSTANCE, &body).await;
    assert_eq!(answer.0, 413);
    is_problem(
        &answer,
        "body_too_large",
        None,
        "a body on this path has at most 65536 bytes",
    );

    let leases: Vec<Value> = (0..10_001)
        .map(|i| json!({"service": "s", "address": format!("h{i}:1")}))
        .collect();
    let answer = daemon
        .post("/v1/heartbeats", json!({"leases": leases}))
        .await;
    assert_eq!(answer.0, 413);
    is_problem(
        &answer,
        "batch_too_large",
        None,
        "leases must have at most 10000 entries, not 10001",
    );

    let registrations = vec![json!({"service": "s", "address": "h:1"}); 10_001];
    let body = json!({ "registrations": registrations });
    let answer = daemon.post("/v1/registrations", body).await;
    assert_eq!(answer.0, 413);
    is_problem(
        &answer,
        "batch_too_large",
        None,
        "registrations must have at most 10000 entries, not 10001",
    );

    let body = " ".repeat(4 * 1024 * 1024 + 1);
    let answer = send(&daemon, Method::POST, "/v1/heartbeats", &body).await;
    assert_eq!(answer.0, 413);
    is_problem(
        &answer,
        "body_too_large",
        None,
        "a body on this path has at most 4194304 bytes",
    );
    nothing_was_written(&daemon).await;
}

async fn a_body_must_say_that_it_is_json<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = daemon
            .client()
            .put(format!("{}{INSTANCE}", daemon.url()))
            .body("{}");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let answer = request.send().await.unwrap();
        let answer = (answer.status(), answer.json().await.unwrap());
        assert_eq!(answer.0, 415);
        is_problem(
            &answer,
            "unsupported_media_type",
            None,
            "a body must have the header Content-Type: application/json",
        );
    }
    nothing_was_written(&daemon).await;
    let with_charset = daemon
        .client()
        .put(format!("{}{INSTANCE}", daemon.url()))
        .header(CONTENT_TYPE, "Application/JSON; charset=utf-8")
        .body("{}");
    assert_eq!(with_charset.send().await.unwrap().status(), 201);
}

async fn garbage_on_the_wire_does_not_hurt<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let garbage: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff\xfe HTTP/9.9\r\n\r\n",
        b"PUT /v1/services/s/instances/a:1 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"weight\"",
        b"PUT /v1/services/s/instances/a:1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    ];
    for bytes in garbage {
        let mut connection = TcpStream::connect(daemon.address()).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = connection.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("it hangs up");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    nothing_was_written(&daemon).await;
}

async fn a_body_that_ends_early_or_never_is_a_problem<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let head = "PUT /v1/services/s/instances/a:1 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
    let chunk = format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n{{}}\r\n");
    let never = format!("{head}Content-Length: 50\r\n\r\n{{\"weight\"");
    for (sent, status, code) in [
        (chunk, 400, "incomplete_body"),
        (never, 408, "body_timeout"),
    ] {
        let mut connection = TcpStream::connect(daemon.address()).await.unwrap();
        connection.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = async {
            let mut bytes = [0; 4096];
            while !answer.contains("\"code\"") {
                let count = connection.read(&mut bytes).await.unwrap();
                assert!(count > 0, "{answer}");
                answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(30), read)
            .await
            .expect("an answer");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
    }
    nothing_was_written(&daemon).await;
}

#[tokio::test]
async fn a_body_that_says_it_is_not_plain_utf8_is_415() {
    let daemon = Setup::<Embedded>::start().await;
    let put = async |headers: &[(&str, &str)]| {
        let url = format!("{}{INSTANCE}", daemon.url());
        let mut request = daemon.client().put(url).body("{}");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    let json = ("content-type", "application/json");
    let compressed = "a body must not be compressed: omit Content-Encoding";
    let charset = "a body must be in UTF-8: leave charset out of Content-Type";
    for (headers, detail) in [
        ([json, ("content-encoding", "gzip")], compressed),
        ([json, ("content-encoding", "br, identity")], compressed),
        (
            [
                ("content-type", "application/json; charset=utf-16"),
                ("x", ""),
            ],
            charset,
        ),
        (
            [
                ("content-type", "application/json;x=y; Charset=\"latin1\""),
                ("x", ""),
            ],
            charset,
        ),
    ] {
        let answer = put(&headers).await;
        assert_eq!(answer.0, 415, "{headers:?}");
        is_problem(&answer, "unsupported_media_type", None, detail);
    }
    nothing_was_written(&daemon).await;
    for headers in [
        [json, ("content-encoding", "Identity")],
        [
            ("content-type", "application/json; charset=UTF-8"),
            ("x", ""),
        ],
        [
            ("content-type", "Application/JSON;charset=\"utf-8\""),
            ("x", ""),
        ],
    ] {
        let (status, body) = put(&headers).await;
        assert!(status.is_success(), "{headers:?}: {body}");
    }
}

#[tokio::test]
async fn an_expectation_that_is_not_met_is_417() {
    let daemon = Setup::<Embedded>::start().await;
    for (expectation, status) in [("200-ok", 417), ("x", 417)] {
        let request = format!("GET /livez HTTP/1.1\r\nHost: h\r\nExpect: {expectation}\r\n\r\n");
        let head = raw::head(daemon.address(), &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(
            head.contains("content-type: application/problem+json"),
            "{head}"
        );
    }
    let request = format!(
        "PUT {INSTANCE} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n"
    );
    let head = raw::head(daemon.address(), &request).await;
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let daemon = Setup::<Embedded>::start().await;
    daemon.put(INSTANCE, json!({})).await;
    for path in [
        "/livez",
        "/readyz",
        "/metrics",
        "/",
        "/v1/services",
        INSTANCE,
        "/v1/events",
        "/v1/services/none",
    ] {
        let url = format!("{}{path}", daemon.url());
        let head = daemon.client().head(&url).send().await.unwrap();
        let get = daemon.client().get(&url).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        assert_eq!(head.headers()[CONTENT_TYPE], get.headers()[CONTENT_TYPE]);
        assert_eq!(head.bytes().await.unwrap().len(), 0, "{path}");
    }
    assert_eq!(
        raw::status(daemon.address(), "HEAD", "/v1/heartbeats", "").await,
        405
    );
}

#[tokio::test]
async fn complaint_21_two_ways_to_write_an_address_are_one_instance() {
    let daemon = Setup::<Embedded>::start().await;
    let put = async |address: &str| {
        let path = format!("/v1/services/orders/instances/{address}");
        daemon.put(&path, json!({})).await.0.as_u16()
    };
    assert_eq!(put("Host-1.EU:80").await, 201);
    assert_eq!(put("host-1.eu:80").await, 200);
    assert_eq!(put("[0:0:0:0:0:0:0:1]:80").await, 201);
    assert_eq!(put("[::1]:80").await, 200);
    let both = ["HOST-1.eu:80", "host-1.EU:80", "[0::1]:80"].map(str::to_owned);
    let (status, body) = daemon.try_send_heartbeats("orders", &both).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["unknown"], json!([]));
    assert_eq!(daemon.counts("orders").await, [2, 2, 2]);
}
