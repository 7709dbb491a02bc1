//! The files for Prometheus and Grafana: they are well formed, the alerts fire when they
//! should, and they use only metrics and labels that the daemon has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::prometheus::Prometheus;
use crate::support::{addresses, eventually};

/// Labels that Prometheus adds, or that only buckets have.
const EVERYWHERE: [&str; 3] = ["instance", "job", "le"];

/// Prometheus' own metric about each target.
const UP: &str = "up";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn read(path: &str) -> String {
    fs::read_to_string(folder(path)).unwrap()
}

/// Runs `promtool`, which must find no fault.
fn promtool(arguments: &[&str], dir: &Path) {
    let output = match Command::new("promtool")
        .args(arguments)
        .current_dir(dir)
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("promtool is missing; tests/run installs what the tests need")
        }
        Err(error) => panic!("promtool: {error}"),
    };
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{arguments:?}: {}", said.concat());
}

/// Words, and the marks between them. Texts in quotes are left out.
#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Mark(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    loop {
        let next = chars.next();
        if let Some(c) = next.filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(Token::Word(std::mem::take(&mut word)));
        }
        match next {
            None => return tokens,
            Some('"') => {
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    if c == '\\' {
                        chars.next();
                    }
                }
            }
            Some(c) if c.is_whitespace() => {}
            Some(c) => tokens.push(Token::Mark(c)),
        }
    }
}

/// The metrics and labels in an expression or a sample.
#[derive(Default)]
struct Names {
    /// The daemon's metrics, each with the labels it is selected by.
    metrics: BTreeMap<String, BTreeSet<String>>,
    /// The labels that are grouped by.
    grouped: BTreeSet<String>,
    up: bool,
}

impl Names {
    fn of(expression: &str) -> Self {
        let mut names = Self::default();
        let mut rest = tokens(expression).into_iter().peekable();
        while let Some(token) = rest.next() {
            let Token::Word(word) = token else { continue };
            let close = match rest.peek() {
                Some(Token::Mark('{')) => Some('}'),
                Some(Token::Mark('(')) if word == "by" => Some(')'),
                _ => None,
            };
            let mut labels = BTreeSet::new();
            if let Some(close) = close {
                labels = rest
                    .by_ref()
                    .take_while(|token| *token != Token::Mark(close))
                    .filter_map(|token| match token {
                        Token::Word(label) => Some(label),
                        Token::Mark(_) => None,
                    })
                    .collect();
            }
            if word == "by" {
                names.grouped.extend(labels);
            } else if word.starts_with("rollcall_") || word.starts_with("process_") {
                names.metrics.entry(word).or_default().extend(labels);
            } else if word == UP {
                names.up = true;
            }
        }
        names
    }
}

/// The metrics and labels in the daemon's `/metrics`.
#[derive(Default)]
struct Exposed {
    metrics: BTreeSet<String>,
    /// The labels of the metrics that have samples.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Exposed {
    fn of(text: &str) -> Self {
        let mut exposed = Self::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                if kind == "histogram" {
                    for suffix in ["_bucket", "_sum", "_count"] {
                        exposed.metrics.insert(format!("{name}{suffix}"));
                    }
                } else {
                    exposed.metrics.insert(name.to_owned());
                }
            } else if !line.starts_with('#') {
                for (metric, labels) in Names::of(line).metrics {
                    exposed.labels.entry(metric).or_default().extend(labels);
                }
            }
        }
        exposed
    }

    /// Whether one of `metrics` has the label, as far as their samples tell.
    fn has<'a>(&self, label: &str, metrics: impl IntoIterator<Item = &'a String>) -> bool {
        let mut sampled = metrics
            .into_iter()
            .filter_map(|metric| self.labels.get(metric))
            .peekable();
        EVERYWHERE.contains(&label)
            || sampled.peek().is_none()
            || sampled.any(|labels| labels.contains(label))
    }

    /// Returns the unknown metrics and labels in an expression.
    fn breaches(&self, expression: &str) -> Vec<String> {
        let names = Names::of(expression);
        let mut breaches = Vec::new();
        if names.metrics.is_empty() && !names.up {
            breaches.push(format!("no metric of the daemon: {expression}"));
        }
        for (metric, labels) in &names.metrics {
            if !self.metrics.contains(metric) {
                breaches.push(format!("no metric {metric}: {expression}"));
            }
            for label in labels {
                if !self.has(label, [metric]) {
                    breaches.push(format!("{metric} has no label {label}: {expression}"));
                }
            }
        }
        for label in &names.grouped {
            if !self.has(label, names.metrics.keys()) {
                breaches.push(format!("nothing has the label {label}: {expression}"));
            }
        }
        breaches
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/rollcall.json")).unwrap()
}

/// The expressions of all panels and variables.
fn expressions_of_dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == "expr" => found.push(text.clone()),
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let dashboard = dashboard();
    let mut found = Vec::new();
    collect(&dashboard["panels"], &mut found);
    collect(&dashboard["annotations"], &mut found);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            found.push(variable["definition"].as_str().unwrap().to_owned());
        }
    }
    found
}

/// The alerts by name, each with its lines. Comments are left out.
fn alerts() -> BTreeMap<String, Vec<String>> {
    let text = read("prometheus/alerts.yaml");
    let mut alerts = BTreeMap::<String, Vec<String>>::new();
    let mut name = None;
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        if let Some(next) = line.strip_prefix("      - alert: ") {
            assert!(!alerts.contains_key(next), "two alerts are {next}");
            name = Some(next.to_owned());
        }
        if let Some(name) = &name {
            alerts
                .entry(name.clone())
                .or_default()
                .push(line.to_owned());
        }
    }
    alerts
}

/// Returns the expression of an alert: the rest of its line, or the further indented lines
/// below.
fn expression(lines: &[String]) -> String {
    const KEY: &str = "        expr: ";
    let at = lines.iter().position(|line| line.starts_with(KEY)).unwrap();
    match &lines[at][KEY.len()..] {
        "|" => {
            let below = lines[at + 1..].iter();
            let below = below.take_while(|line| line.starts_with("          "));
            below.map(|line| line.trim()).collect::<Vec<_>>().join(" ")
        }
        here => here.to_owned(),
    }
}

/// The series that the cases of the alerts make up.
fn series_of_cases() -> Vec<String> {
    let text = read("prometheus/alerts_test.yaml");
    let series = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- series: "));
    series.map(str::to_owned).collect()
}

#[test]
fn prometheus_takes_the_example_and_the_alerts() {
    promtool(&["check", "rules", "alerts.yaml"], &folder("prometheus"));
    // With a token file beside it, as in real use.
    let dir = TempDir::new().unwrap();
    for file in ["prometheus.yaml", "alerts.yaml"] {
        fs::copy(folder("prometheus").join(file), dir.path().join(file)).unwrap();
    }
    fs::write(dir.path().join("rollcall.token"), "a token").unwrap();
    promtool(&["check", "config", "prometheus.yaml"], dir.path());
}

#[test]
fn alerts_fire_when_they_should_and_not_when_they_come_near() {
    promtool(
        &["test", "rules", "alerts_test.yaml"],
        &folder("prometheus"),
    );
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let alerts = alerts();
    assert!(!alerts.is_empty());
    for (name, lines) in alerts {
        for key in ["for:", "severity:", "summary:", "description:"] {
            let has = lines.iter().any(|line| line.trim().starts_with(key));
            assert!(has, "{name} has no {key}");
        }
    }
}

#[test]
fn every_alert_has_a_case_where_it_fires_and_one_where_it_is_silent() {
    let text = read("prometheus/alerts_test.yaml");
    let mut cases = BTreeSet::new();
    for case in text.split("\n  - name: ").skip(1) {
        let title = case.lines().next().unwrap();
        let (alert, what) = title.split_once(' ').unwrap();
        let fires = what.starts_with("fires ");
        assert!(fires || what.starts_with("is silent "), "{title}");
        let asked = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        assert!(case.contains(&asked), "{title}: it asks for another alert");
        assert_eq!(!fires, case.contains("exp_samples: []"), "{title}");
        cases.insert((alert.to_owned(), fires));
    }
    let alerts: BTreeSet<_> = alerts()
        .into_keys()
        .flat_map(|name| [(name.clone(), true), (name, false)])
        .collect();
    assert_eq!(cases, alerts, "the cases and the alerts; true is: it fires");
}

#[tokio::test]
async fn dashboard_and_alerts_ask_only_for_what_the_daemon_has() {
    let daemon = Daemon::start(&[]).await;
    // Something of most kinds has happened, so that there are samples whose labels can be
    // looked at.
    let addresses = ["10.0.0.5:8080".to_owned()];
    daemon.register("orders", &addresses, &json!({})).await;
    daemon.send_heartbeats("orders", &addresses).await;
    daemon.get("/v1/services/orders/instances").await;
    let mut text = String::new();
    for path in ["/metrics", "/metrics/scopes"] {
        let url = format!("{}{path}", daemon.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        text += &answer.text().await.unwrap();
    }
    let exposed = Exposed::of(&text);
    assert!(!exposed.metrics.is_empty());

    let expressions: Vec<String> = expressions_of_dashboard()
        .into_iter()
        .chain(alerts().values().map(|lines| expression(lines)))
        .chain(series_of_cases())
        .collect();
    let breaches: Vec<String> = expressions
        .iter()
        .flat_map(|expression| exposed.breaches(expression))
        .collect();
    assert_eq!(breaches, Vec::<String>::new());
}

#[test]
fn a_question_for_what_is_not_there_is_seen() {
    let exposed = Exposed::of(concat!(
        "# HELP rollcall_beats_total Beats {of} \"rollcall_all\".\n",
        "# TYPE rollcall_beats_total counter\n",
        "rollcall_beats_total{outcome=\"rollcall_no\",kind=\"a \\\" b}\"} 7\n",
        "# TYPE rollcall_wait_seconds histogram\n",
        "rollcall_wait_seconds_bucket{actor=\"a\",le=\"+Inf\"} 1\n",
        "# TYPE process_threads gauge\n",
        "process_threads 3\n",
        "# TYPE rollcall_unsampled gauge\n",
    ));
    for (expression, breach) in [
        (
            "rate(rollcall_beat_total[5m])",
            "no metric rollcall_beat_total",
        ),
        (
            "rollcall_wait_seconds > 1",
            "no metric rollcall_wait_seconds",
        ),
        (
            "process_threads{outcome=\"x\"}",
            "process_threads has no label outcome",
        ),
        (
            "rollcall_beats_total{job=\"a\", result=~\"b{2}\"}",
            "rollcall_beats_total has no label result",
        ),
        (
            "sum by (job, result) (rate(rollcall_beats_total[$__rate_interval]))",
            "nothing has the label result",
        ),
        ("vector(1) > 2", "no metric of the daemon"),
        (
            "vector(1) or \"rollcall_beats_total\"",
            "no metric of the daemon",
        ),
    ] {
        assert_eq!(
            exposed.breaches(expression),
            [format!("{breach}: {expression}")]
        );
    }
    for expression in [
        "up{job=\"rollcall\"} == 0",
        "sum by (kind) (rollcall_beats_total{outcome=\"x\", instance=~\"$instance\"}) / process_threads",
        "histogram_quantile(0.9, sum by (le, actor) (rate(rollcall_wait_seconds_bucket[5m])))",
        "sum(rollcall_wait_seconds_sum) / sum(rollcall_wait_seconds_count)",
        "max by (what) (rollcall_unsampled{ever=\"x\"})",
        "label_values(rollcall_beats_total{job=\"$job\"}, instance)",
    ] {
        assert_eq!(exposed.breaches(expression), Vec::<String>::new());
    }
}

/// A Prometheus that scrapes a daemon which has an outage, and an operator who did something.
#[tokio::test]
async fn a_running_prometheus_evaluates_every_expression_of_the_dashboard_and_the_alerts() {
    let daemon = Daemon::start(&[]).await;
    daemon.register("orders", &addresses(3), &json!({})).await;
    let held = "/v1/services/orders/instances/h-0:1";
    daemon.patch(held, json!({"status": "held"})).await;
    let scrape = |path: &str| {
        json!({
            "job_name": format!("rollcall{}", path.replace('/', "-")), "metrics_path": path,
            "static_configs": [{"targets": [daemon.address()]}],
            "relabel_configs": [{"target_label": "job", "replacement": "rollcall"}],
        })
    };
    let config = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [scrape("/metrics"), scrape("/metrics/scopes")],
    });
    let prometheus = Prometheus::start_with(&config.to_string(), "").await;
    let unavailable = r#"rollcall_scopes{kind="service", state="unavailable"}"#;
    let outage = async || {
        let found = prometheus.values(unavailable).await;
        (found.first()? == "1").then_some(())
    };
    eventually(Duration::from_secs(30), "the outage is scraped", outage).await;
    let with_values = |expression: &str| {
        expression
            .replace("$job", "rollcall")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "30s")
            .replace("$__interval", "15s")
            .replace("$__range", "1h")
    };
    let of_dashboard = expressions_of_dashboard();
    let shown = of_dashboard
        .iter()
        .filter(|it| !it.starts_with("label_values"));
    let of_alerts: Vec<String> = alerts().values().map(|lines| expression(lines)).collect();
    let mut evaluated = 0;
    for expression in shown.chain(&of_alerts) {
        // Prometheus answers an error for one that it cannot evaluate.
        prometheus.values(&with_values(expression)).await;
        evaluated += 1;
    }
    assert!(evaluated > 80, "{evaluated}");
    let first = dashboard()["panels"][1].clone();
    assert_eq!(
        first["title"],
        json!("Services without an available instance")
    );
    let shown = with_values(first["targets"][0]["expr"].as_str().unwrap());
    assert_eq!(prometheus.values(&shown).await, ["1"]);
    let actions = "sum(rollcall_operator_actions_total)";
    assert_eq!(prometheus.values(actions).await, ["1"]);
}

#[test]
fn every_panel_says_what_it_shows() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    // The panels of a collapsed row are in the row.
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let within = |row: &Value| row["panels"].as_array().cloned().unwrap_or_default();
    let panels = panels.flat_map(|panel| [vec![panel.clone()], within(panel)].concat());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id");
        if panel["type"] == "row" {
            continue;
        }
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        for (what, text) in [("description", &panel["description"]), ("unit", unit)] {
            let given = text.as_str().is_some_and(|text| !text.is_empty());
            assert!(given, "{title} has no {what}");
        }
        for target in panel["targets"].as_array().unwrap() {
            let uid = &target["datasource"]["uid"];
            assert_eq!(uid, "${datasource}", "{title} is bound to a data source");
        }
    }
    let variables: BTreeSet<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert!(variables.is_superset(&BTreeSet::from(["datasource", "instance"])));
}

/// So that a change of one panel is a small difference.
#[test]
fn the_dashboard_is_sorted_and_indented_by_two() {
    let mut pretty = serde_json::to_string_pretty(&dashboard()).unwrap();
    pretty.push('\n');
    assert!(
        read("grafana/rollcall.json") == pretty,
        "write it with `jq -S --indent 2 .`"
    );
}
