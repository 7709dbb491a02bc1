//! Roles and scopes: every route with every role, in every notation.

use std::fs;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rollcalld::auth::Role;
use rollcalld::http::Code;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

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

    /// The status of an answer. A path of the original's API has it in its message: there each
    /// answer is 200.
    async fn status(&self, method: &str, path: &str, headers: &str) -> u16 {
        let status = raw::status(self.daemon.address(), method, path, headers).await;
        let target = path.strip_prefix("http://localhost").unwrap_or(path);
        if !target.starts_with("/gateway-") {
            return status;
        }
        assert_eq!(status, 200, "{method} {path}");
        let body = raw::body(self.daemon.address(), method, path, headers).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let message = body["msg"].as_str().unwrap();
        let code = message.split(':').next().unwrap();
        let known = Code::ALL.iter().find(|known| known.as_str() == code);
        known.map_or(200, |known| known.status().as_u16())
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
        let says = "the token \"orders-team\" is limited to services/orders*";
        if path.starts_with("/gateway-") {
            assert_eq!(status, 200, "{path}");
            assert_eq!(body["msg"], json!(format!("scope_forbidden: {says}")));
            return;
        }
        assert_eq!(status, 403, "{path} {body}");
        assert_eq!(body["code"], json!("scope_forbidden"), "{path}");
        assert_eq!(body["detail"], json!(says));
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
    out(Method::GET, "/metrics", json!({})).await;
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

    let registrations = json!({"registrations": leases(&["orders", "payments"])["leases"]});
    let (_, body) = send(Method::POST, "/v1/registrations", registrations).await;
    assert_eq!(body["results"][0]["outcome"], json!("unchanged"), "{body}");
    assert_eq!(
        (&body["results"][1]["status"], &body["results"][1]["code"]),
        (&json!(403), &json!("scope_forbidden"))
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
async fn a_limited_token_sees_its_own_scopes_in_lists_totals_and_events() {
    let (own, own_line) = make("admin", "orders-team", &["services/orders*"]);
    let (all, all_line) = make("admin", "ops", &[]);
    let guarded = Guarded::start(&[&own_line, &all_line]).await;
    let url = guarded.daemon.url();
    let events = guarded.daemon.client().get(format!("{url}/v1/events"));
    let mut events = events.bearer_auth(&own).send().await.unwrap();
    let other = "/v1/services/payments/instances/10.0.0.5:8080";
    for path in [other, ORDERS] {
        guarded.send(Method::PUT, path, &all, json!({})).await;
    }
    let get = |path: &'static str| guarded.send(Method::GET, path, &own, json!({}));

    let (_, services) = get("/v1/services").await;
    let keys = |list: &Value| {
        let keys = list.as_array().unwrap().iter();
        Vec::from_iter(keys.map(|it| it["key"].as_str().unwrap().to_owned()))
    };
    assert_eq!(keys(&services["services"]), ["orders"]);
    let (_, everything) = guarded
        .send(Method::GET, "/v1/services", &all, json!({}))
        .await;
    assert_eq!(keys(&everything["services"]), ["orders", "payments"]);
    assert_eq!(get("/v1/groups").await.1, json!({"groups": []}));
    let (_, overview) = get("/v1/overview").await;
    assert_eq!(overview["scopes"], json!(1));
    assert_eq!(overview["instances"], json!(1));

    let mut heard = String::new();
    while !heard.contains("\"orders\"") {
        let chunk = timeout(Duration::from_secs(10), events.chunk()).await;
        heard.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap().unwrap()));
    }
    assert!(!heard.contains("payments"), "{heard}");
}

#[tokio::test]
async fn a_caller_learns_the_name_the_role_and_the_scopes_of_its_token() {
    let (own, own_line) = make("agent", "orders-team", &["services/orders*"]);
    let guarded = Guarded::start(&[&own_line]).await;
    let whoami = "/v1/whoami";
    assert_eq!(
        guarded.send(Method::GET, whoami, &own, json!({})).await.1,
        json!({"name": "orders-team", "role": "agent", "scope": "services/orders*", "anonymous": false})
    );
    let unknown = "unknown-unknown-unknown-unknown-unknown";
    assert_eq!(
        guarded
            .send(Method::GET, whoami, unknown, json!({}))
            .await
            .0,
        401
    );
    let open = Daemon::start(&[]).await;
    assert_eq!(
        open.get(whoami).await.1,
        json!({"name": "anonymous", "role": "admin", "anonymous": true})
    );
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
        "\"night-shift\" from 127.0.0.1: changed services/orders/instances/10.0.0.5:8080: status held\n",
        "\"night-shift\" from 127.0.0.1: changed services/orders/instances/10.0.0.5:8080: weight 5, metadata\n",
        "\"night-shift\" from 127.0.0.1: declared groups/edge",
        "\"night-shift\" from 127.0.0.1: removed groups/edge",
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

    let open = ["--listen", "127.0.0.1:0", "--anonymous-role", "admin"].map(str::to_owned);
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

#[tokio::test]
async fn clients_without_a_token_have_the_anonymous_role() {
    let (agent, line) = make("agent", "web-team", &[]);
    for (role, read, register, hold) in [
        ("none", 401, 401, 401),
        ("read", 200, 403, 403),
        ("agent", 200, 201, 403),
        ("admin", 200, 201, 200),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("tokens");
        fs::write(&list, &line).unwrap();
        let flags = [
            "--anonymous-role",
            role,
            "--tokens-file",
            list.to_str().unwrap(),
        ];
        let daemon = Daemon::start(&flags.map(str::to_owned)).await;
        assert_eq!(daemon.get("/v1/services").await.0, read, "{role}");
        assert_eq!(daemon.put(ORDERS, json!({})).await.0, register, "{role}");
        let url = format!("{}{ORDERS}", daemon.url());
        let put = daemon.client().put(&url).bearer_auth(&agent).send().await;
        assert!(put.unwrap().status().is_success(), "{role}");
        let held = daemon.patch(ORDERS, json!({"status": "held"})).await.0;
        assert_eq!(held, hold, "{role}");
        // A wrong token is not the same as none.
        let wrong = daemon.client().get(&url).bearer_auth("wrong").send().await;
        assert_eq!(wrong.unwrap().status(), 401, "{role}");
    }
}

#[tokio::test]
async fn complaint_16_the_password_of_basic_authentication_is_a_token() {
    let (token, line) = make("agent", "web-team", &[]);
    let guarded = Guarded::start(&[&line]).await;
    let url = format!("{}{ORDERS}", guarded.daemon.url());
    let put = async |user: &str, password: &str| {
        let request = guarded.daemon.client().put(&url);
        let answer = request.basic_auth(user, Some(password)).send().await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(put("anyone", &token).await, 201);
    assert_eq!(put("", &token).await, 200);
    assert_eq!(put(&token, "").await, 401);
    assert_eq!(put("web-team", "wrong").await, 401);
    for header in ["Basic", "Basic ", "Basic %", "Basic Og==", "Basic /w=="] {
        let headers = format!("Authorization: {header}\r\n");
        assert_eq!(guarded.status("GET", "/v1/services", &headers).await, 401);
    }
}

#[tokio::test]
async fn complaint_17_an_instance_names_who_registered_it_and_actions_name_who_took_them() {
    let (token, line) = make("agent", "web-team", &[]);
    let (admin, admin_line) = make("admin", "ada", &[]);
    let guarded = Guarded::start(&[&line, &admin_line]).await;
    let send =
        async |method, path: &str, token, body| guarded.send(method, path, token, body).await;
    let (_, registered) = send(Method::PUT, ORDERS, &token, json!({})).await;
    let by = json!({"token": "web-team", "peer": "127.0.0.1"});
    assert_eq!(registered["registered_by"], by);
    let hold = json!({"status": "held", "reason": "disk is failing"});
    send(Method::PATCH, ORDERS, &admin, hold).await;
    send(Method::DELETE, ORDERS, &admin, json!({})).await;
    let log = guarded.daemon.log();
    for says in [
        "token \"ada\" from 127.0.0.1: changed services/orders/instances/10.0.0.5:8080: status held (disk is failing)",
        "token \"ada\" from 127.0.0.1: deregistered services/orders/instances/10.0.0.5:8080",
    ] {
        assert!(log.contains(says), "{log}");
    }
}

#[tokio::test]
async fn an_agent_token_does_not_deregister_what_an_operator_decided() {
    let (token, line) = make("agent", "web-team", &[]);
    let (admin, admin_line) = make("admin", "ada", &[]);
    let guarded = Guarded::start(&[&line, &admin_line]).await;
    let gateway = "/v1/groups/edge/instances/10.0.0.5:443";
    guarded
        .send(Method::PUT, "/v1/groups/edge", &admin, json!({}))
        .await;
    for (instance, decision, says) in [
        (
            ORDERS,
            json!({"status": "held", "reason": "disk"}),
            "is held by \"ada\": disk",
        ),
        (ORDERS, json!({"weight": 0}), "has values of an operator"),
        (
            gateway,
            json!({"status": "enabled"}),
            "an operator has approved",
        ),
    ] {
        guarded.send(Method::PUT, instance, &token, json!({})).await;
        guarded
            .send(Method::PATCH, instance, &admin, decision)
            .await;
        let (status, body) = guarded
            .send(Method::DELETE, instance, &token, json!({}))
            .await;
        assert_eq!(
            (status.as_u16(), &body["code"]),
            (403, &json!("decided_by_operator"))
        );
        assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
        let (_, kept) = guarded.send(Method::GET, instance, &token, json!({})).await;
        assert!(kept["id"].is_string());
        // It may leave.
        let leave = format!("{instance}/leave");
        assert_eq!(
            guarded
                .send(Method::POST, &leave, &token, json!({}))
                .await
                .0,
            204
        );
        assert_eq!(
            guarded
                .send(Method::GET, instance, &token, json!({}))
                .await
                .1["id"],
            kept["id"]
        );
        assert_eq!(
            guarded
                .send(Method::DELETE, instance, &admin, json!({}))
                .await
                .0,
            204
        );
    }
    guarded.send(Method::PUT, ORDERS, &token, json!({})).await;
    assert_eq!(
        guarded
            .send(Method::DELETE, ORDERS, &token, json!({}))
            .await
            .0,
        204
    );
}

#[tokio::test]
async fn complaint_25_the_client_behind_a_trusted_proxy_is_the_one_it_names() {
    let register = async |daemon: &Daemon, forwarded: &[&str]| {
        let mut request = daemon.client().put(format!("{}{ORDERS}", daemon.url()));
        for header in forwarded {
            request = request.header("X-Forwarded-For", *header);
        }
        let body: Value = request.send().await.unwrap().json().await.unwrap();
        daemon.delete(ORDERS).await;
        body["registered_by"]["peer"].as_str().unwrap().to_owned()
    };
    let trusting = ["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"].map(str::to_owned);
    let daemon = Daemon::start(&trusting).await;
    for (forwarded, peer) in [
        (&[][..], "127.0.0.1"),
        (&["203.0.113.9"], "203.0.113.9"),
        // What the client itself sent is before what the proxies added.
        (&["198.51.100.1, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (
            &["198.51.100.1", "203.0.113.9:4711, 10.1.2.3"],
            "203.0.113.9",
        ),
        (&["[2001:db8::1]:5, 10.1.2.3"], "2001:db8::1"),
        (&["::ffff:203.0.113.9"], "203.0.113.9"),
        (&["unknown, 10.1.2.3"], "10.1.2.3"),
        (&["nonsense"], "127.0.0.1"),
    ] {
        assert_eq!(register(&daemon, forwarded).await, peer, "{forwarded:?}");
    }
    let daemon = Daemon::start(&[]).await;
    assert_eq!(register(&daemon, &["203.0.113.9"]).await, "127.0.0.1");
}

#[tokio::test]
async fn a_new_token_is_appended_to_the_file_and_printed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("tokens");
    // Its last line lacks its end.
    fs::write(&list, "# our tokens").unwrap();
    let arguments = ["token", "--role", "read", "--name", "one", "--append"];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let output = Command::new(BINARY)
            .args(arguments)
            .arg(&list)
            .arg("--quiet")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        tokens.push(text.trim().to_owned());
    }
    assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 3);
    let flags = ["--tokens-file", list.to_str().unwrap()].map(str::to_owned);
    let daemon = Daemon::start(&flags).await;
    for token in tokens {
        let url = format!("{}/v1/services", daemon.url());
        let answer = daemon.client().get(url).bearer_auth(token).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    let missing = Command::new(BINARY)
        .args(arguments)
        .arg("no/such/file")
        .output()
        .unwrap();
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("no/such/file"), "{text}");
    assert!(missing.stdout.is_empty(), "no token without its line");
}
