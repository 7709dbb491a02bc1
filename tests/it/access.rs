//! Roles and scopes: every route with every role, in every notation.

use std::fs;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rollcalld::auth::Role;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::daemon::{Answer, BINARY, Daemon};
use crate::support::{eventually, raw};

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// A token and its line, from the command itself.
fn make(role: &str, name: &str, scope: &[&str]) -> (String, String) {
    let output = Command::new(BINARY)
        .args(["token", "--role", role, "--name", name])
        .args(scope.iter().flat_map(|scope| ["--scope", scope]))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let [token, line] = ["token (shown only once):", "line for --tokens-file:"].map(|label| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.unwrap().trim().to_owned()
    });
    (token, line)
}

/// A daemon with a tokens file, of which the test knows the tokens.
struct Guarded {
    daemon: Daemon,
    list: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("tokens");
        fs::write(&list, lines.join("\n")).unwrap();
        let flag = list.display().to_string();
        Self {
            daemon: Daemon::start(&["--tokens-file".to_owned(), flag]).await,
            list,
            _folder: folder,
        }
    }

    async fn send(&self, method: Method, path: &str, token: &str, body: Value) -> Answer {
        let url = format!("{}{path}", self.daemon.url());
        let request = self.daemon.client().request(method, url);
        let request = match token {
            "" => request,
            token => request.bearer_auth(token),
        };
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn status(&self, method: &str, path: &str, headers: &str) -> u16 {
        raw::status(self.daemon.address(), method, path, headers).await
    }
}

/// A path that a pattern of the route table matches.
fn example(pattern: &str) -> String {
    pattern
        .replace("{kind}", "services")
        .replace("{key}", "orders")
        .replace("{address}", "10.0.0.5:8080")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let roles = [Role::Read, Role::Agent, Role::Admin];
    let made = roles.map(|role| make(role.as_str(), role.as_str(), &[]));
    let lines: Vec<&str> = made.iter().map(|(_, line)| line.as_str()).collect();
    let guarded = Guarded::start(&lines).await;
    let routes = rollcalld::http::routes();
    assert!(routes.len() > 20);
    for (pattern, method, needed) in routes {
        let path = example(pattern);
        let of = |status: u16| format!("{method} {path}: {status}");
        let anonymous = guarded.status(method, &path, "").await;
        let Some(needed) = needed else {
            assert!(![401, 403].contains(&anonymous), "{}", of(anonymous));
            continue;
        };
        assert_eq!(anonymous, 401, "{}", of(anonymous));
        let wrong = bearer(&"x".repeat(64));
        let status = guarded.status(method, &path, &wrong).await;
        assert_eq!(status, 401, "{}", of(status));
        for (role, (token, _)) in roles.iter().zip(&made) {
            let status = guarded.status(method, &path, &bearer(token)).await;
            if *role >= needed {
                assert!(![401, 403].contains(&status), "{role} {}", of(status))
            } else {
                assert_eq!(status, 403, "{role} {}", of(status))
            }
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_and_no_header_gets_around_it() {
    let (token, line) = make("admin", "ops", &[]);
    let guarded = Guarded::start(&[&line]).await;
    let good = bearer(&token);
    for (pattern, method, needed) in rollcalld::http::routes() {
        if needed.is_none() {
            continue;
        }
        let path = example(pattern);
        let bare = path.trim_start_matches('/');
        for odd in [
            format!("//{bare}"),
            format!("/{path}"),
            format!("{path}/"),
            format!("{path}//"),
            format!("/%2e{path}"),
            format!("/./{bare}"),
            format!("/livez/../{bare}"),
            format!("/livez/%2e%2e/{bare}"),
            format!("/livez;/{bare}"),
            format!("{path};x"),
            format!("{path};.css"),
            format!("{path}%20"),
            format!("{path}%00"),
            format!("{path}?access_token={token}"),
            format!("{path}?/livez"),
            path.to_uppercase(),
            path.replace("v1", "%761"),
            path.replace('/', "%2f").replacen("%2f", "/", 1),
            format!("http://localhost/livez/..{path}"),
            format!("http://localhost{path}"),
        ] {
            let status = guarded.status(method, &odd, "").await;
            assert!(
                [400, 401, 404].contains(&status),
                "{method} {odd}: {status}"
            );
        }
        for forged in [
            "X-Forwarded-For: 127.0.0.1\r\n",
            "X-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n",
            "X-Original-URL: /livez\r\nX-Rewrite-URL: /livez\r\n",
            "X-HTTP-Method-Override: GET\r\nX-Method-Override: GET\r\n",
            "User-Agent: Nacos-Server\r\n",
            "X-User: admin\r\nX-Remote-User: admin\r\nX-Role: admin\r\n",
            "Authorization: Basic YWRtaW46YWRtaW4=\r\n",
            "Authorization: Bearer \r\n",
            &format!("Authorization: {token}\r\n"),
            &format!("Authorization: Basic {token}\r\n"),
            &format!("Proxy-Authorization: Bearer {token}\r\n"),
            &format!("Cookie: token={token}\r\nX-Token: {token}\r\n"),
            // Two, of which somebody before us may have read the other.
            &format!("{good}Authorization: Bearer x\r\n"),
        ] {
            let status = guarded.status(method, &path, forged).await;
            assert_eq!(status, 401, "{method} {path} {forged}");
        }
    }
    // An unsupported method needs a token as well, and an unknown path reveals nothing.
    assert_eq!(guarded.status("POST", ORDERS, "").await, 401);
    assert_eq!(guarded.status("POST", ORDERS, &good).await, 405);
    assert_eq!(guarded.status("GET", "/v2/secret", "").await, 404);
    assert!(!guarded.daemon.log().contains(&token));
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let (token, line) = make("read", "dashboards", &[]);
    let guarded = Guarded::start(&[&line]).await;
    let url = format!("{}{ORDERS}", guarded.daemon.url());
    let answer = guarded.daemon.client().put(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        answer.json::<Value>().await.unwrap(),
        json!({"title": "Unauthorized", "status": 401, "code": "unauthorized", "detail": "a valid bearer token is required: send Authorization: Bearer TOKEN"})
    );
    let (_, body) = guarded.send(Method::PUT, ORDERS, &token, json!({})).await;
    assert_eq!(
        body,
        json!({"title": "Forbidden", "status": 403, "code": "forbidden", "detail": "this request requires the role agent, but the token \"dashboards\" has the role read"})
    );
}

#[tokio::test]
async fn a_limited_token_reaches_its_scopes_and_nothing_else() {
    let (own, own_line) = make("admin", "orders-team", &["services/orders*"]);
    let (all, all_line) = make("admin", "ops", &[]);
    let guarded = Guarded::start(&[&own_line, &all_line]).await;
    let send = |method, path: &'static str, body| guarded.send(method, path, &own, body);
    let other = "/v1/services/payments/instances/10.0.0.5:8080";
    let out = async |method, path, body| {
        let (status, body) = send(method, path, body).await;
        assert_eq!(status, 403, "{path} {body}");
        assert_eq!(body["code"], json!("scope_forbidden"), "{path}");
        assert_eq!(
            body["detail"],
            json!("the token \"orders-team\" is limited to services/orders*")
        );
    };

    assert_eq!(send(Method::PUT, ORDERS, json!({})).await.0, 201);
    let registered = guarded.send(Method::PUT, other, &all, json!({})).await;
    assert_eq!(registered.0, 201);
    let lists = "/v1/services/orders/instances";
    assert_eq!(send(Method::GET, lists, json!({})).await.0, 200);
    out(Method::GET, "/v1/services/payments/instances", json!({})).await;
    out(Method::PUT, other, json!({})).await;
    out(Method::DELETE, other, json!({})).await;
    out(Method::PATCH, other, json!({"weight": 2})).await;
    out(Method::PUT, "/v1/groups/orders", json!({})).await;
    for path in ["/v1/services", "/v1/overview", "/metrics", "/v1/events"] {
        out(Method::GET, path, json!({})).await;
    }
    out(Method::GET, "/v1/events?service=payments", json!({})).await;
    out(Method::POST, "/v1/protection/release", json!({})).await;
    out(
        Method::PUT,
        "/gateway-server-detail/offline?id=1",
        json!({}),
    )
    .await;
    let status = guarded
        .status("GET", "/v1/events?service=orders", &bearer(&own))
        .await;
    assert_eq!(status, 200);

    let leases = |services: &[&str]| {
        let leases = services.iter();
        let leases = leases.map(|key| json!({"service": key, "address": "10.0.0.5:8080"}));
        json!({"leases": leases.collect::<Vec<_>>()})
    };
    let batch = "/v1/heartbeats";
    assert_eq!(send(Method::POST, batch, leases(&["orders"])).await.0, 200);
    out(Method::POST, batch, leases(&["orders", "payments"])).await;
    let (_, listed) = guarded.send(Method::GET, other, &all, json!({})).await;
    assert_eq!(
        listed["online"],
        json!(false),
        "nothing of the batch was done"
    );

    // The original's API answers everything with status 200.
    let heartbeat = |server: &str| json!({"server": server, "addr": "10.0.0.5:8080"});
    let keep_alive = "/gateway-server-detail/keep-alive";
    let (_, body) = send(Method::PUT, keep_alive, heartbeat("orders")).await;
    assert_eq!(body["code"], json!(1));
    let (_, body) = send(Method::PUT, keep_alive, heartbeat("payments")).await;
    assert_eq!(body["code"], json!(0), "{body}");
    let create = json!({"groupKey": "orders", "address": "h:1"});
    let (_, body) = send(Method::POST, "/gateway-group-detail/create", create).await;
    assert!(
        body["msg"].as_str().unwrap().contains("is limited to"),
        "{body}"
    );
    let register = json!({"serverId": "payments", "serverAddress": "h:1"});
    let (_, body) = send(Method::POST, "/gateway-server-detail/register", register).await;
    assert_eq!(body["code"], json!(0), "{body}");
}

#[tokio::test]
async fn an_operators_acts_are_logged_by_the_name_of_the_token() {
    let (token, line) = make("admin", "night-shift", &[]);
    let guarded = Guarded::start(&[&line]).await;
    let send = |method, path: &'static str, body| guarded.send(method, path, &token, body);
    send(Method::PUT, ORDERS, json!({})).await;
    let (_, body) = send(Method::PATCH, ORDERS, json!({"status": "held"})).await;
    assert_eq!(body["held_by"], json!("night-shift"));
    let change = json!({"weight": 5, "metadata": {}});
    send(Method::PATCH, ORDERS, change).await;
    send(Method::PUT, "/v1/groups/edge", json!({})).await;
    send(Method::DELETE, "/v1/groups/edge", json!({})).await;
    let log = guarded.daemon.log();
    for act in [
        "\"night-shift\" changed services/orders/instances/10.0.0.5:8080: status held\n",
        "\"night-shift\" changed services/orders/instances/10.0.0.5:8080: weight 5, metadata\n",
        "\"night-shift\" declared groups/edge",
        "\"night-shift\" removed groups/edge",
    ] {
        assert!(log.contains(act), "no {act:?} in {log}");
    }
    assert!(!log.contains(&token), "{log}");
    let (status, overview) = send(Method::GET, "/v1/overview", json!({})).await;
    assert_eq!(
        (status.as_u16(), &overview["auth_disabled"]),
        (200, &json!(false))
    );
}

#[tokio::test]
async fn tokens_are_read_again_on_sighup() {
    let (old, old_line) = make("admin", "old", &[]);
    let (new, new_line) = make("admin", "new", &[]);
    let guarded = Guarded::start(&[&old_line]).await;
    let status = async |token: &str| {
        let answer = guarded.send(Method::GET, "/v1/services", token, json!({}));
        answer.await.0.as_u16()
    };
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    fs::write(&guarded.list, &new_line).unwrap();
    guarded.daemon.signal(Signal::HUP);
    eventually(Duration::from_secs(10), "the new one is known", || async {
        (status(&new).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 401);

    // An invalid file changes nothing, and is logged.
    fs::write(&guarded.list, "admin new not-a-hash").unwrap();
    guarded.daemon.signal(Signal::HUP);
    eventually(Duration::from_secs(10), "it is said", || async {
        let log = guarded.daemon.log();
        log.contains("the previous ones stay valid: ").then_some(())
    })
    .await;
    assert_eq!(status(&new).await, 200);
}

#[tokio::test]
async fn tokens_come_from_variables_and_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let (token, _) = make("agent", "x", &[]);
    let file = folder.path().join("agent");
    fs::write(&file, format!("{token}\n")).unwrap();
    let flag = file.display().to_string();
    let daemon = Daemon::start(&["--agent-token-file".to_owned(), flag.clone()]).await;
    let url = format!("{}{ORDERS}", daemon.url());
    let request = daemon.client().put(&url);
    let answer = request.bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    fs::write(&file, "short").unwrap();
    let output = Command::new(BINARY)
        .args(["--listen", "127.0.0.1:0", "--agent-token-file", &flag])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let says = format!("the token of {flag} is shorter than 32 characters");
    assert!(text.contains(&says), "{text}");
}

#[tokio::test]
async fn a_daemon_without_tokens_says_so_loudly() {
    let refused = Command::new(BINARY)
        .args(["--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("without tokens every client"), "{text}");

    let open = ["--listen", "127.0.0.1:0", "--allow-anonymous"].map(str::to_owned);
    let daemon = Daemon::start(&open[2..]).await;
    assert!(
        daemon.log().contains("every client that can reach"),
        "{}",
        daemon.log()
    );
    let (_, overview) = daemon.get("/v1/overview").await;
    assert_eq!(overview["auth_disabled"], json!(true));
    let (_, body) = daemon.put(ORDERS, json!({})).await;
    assert_eq!(body["service"], json!("orders"));
    let (_, body) = daemon.patch(ORDERS, json!({"status": "held"})).await;
    assert_eq!(body["held_by"], json!("anonymous"));
}
