//! The documentation: its links resolve, everything it names exists, and everything that exists
//! is documented.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rollcalld::http::Code;
use serde_json::json;

use crate::support::daemon::Daemon;

/// The pages, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .to_vec();
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    let text = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(text).collect()
}

/// The text of all pages that describe the present.
fn text() -> String {
    let current = pages()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("CHANGELOG.md"));
    current.map(|(_, text)| text).collect()
}

/// The maximal runs of `allowed` characters that begin with `prefix`.
fn words(text: &str, prefix: &str, allowed: impl Fn(char) -> bool) -> BTreeSet<String> {
    text.split(|character| !allowed(character))
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// Fails with the elements that only one of the sets has.
fn assert_same(documented: &BTreeSet<String>, existing: &BTreeSet<String>) {
    let missing: Vec<_> = existing.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(existing).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not documented: {missing:#?}, documented but not there: {unknown:#?}"
    );
}

/// The anchor that a heading gets, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for (path, text) in pages() {
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            assert!(linked.exists(), "{} links to {target}", path.display());
            if !heading.is_empty() {
                let linked = fs::read_to_string(linked).unwrap();
                let mut headings = linked.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading),
                    "{} links to {target}",
                    path.display()
                );
            }
        }
    }
}

/// Returns the `--help` of the program and of all commands.
fn help() -> String {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rollcalld"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut help = print(&["--help"]);
    let commands: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        help.push_str(&print(&[command, "--help"]));
    }
    help
}

#[test]
fn every_flag_is_documented_and_every_documented_flag_exists() {
    let is_flag = |character: char| character.is_ascii_lowercase() || character == '-';
    let help = help();
    // A flag stands first in its line, after its short form if it has one.
    let options = help.lines().map(str::trim_start);
    let options = options.filter(|line| line.starts_with('-'));
    let mut flags = BTreeSet::new();
    for option in options {
        flags.extend(words(option.split("  ").next().unwrap(), "--", is_flag));
    }
    // Flags of the daemon and its commands, not of docker or cargo: alone in backticks, or in a
    // line that runs the program.
    let mut documented = BTreeSet::new();
    for line in text().lines() {
        let spans = line.split('`').skip(1).step_by(2);
        let alone = spans.filter(|span| span.starts_with("--"));
        let runs = line.starts_with("rollcalld").then(|| {
            // The rest belongs to the command that the agent runs.
            line.split(" -- ").next().unwrap()
        });
        for text in alone.chain(runs) {
            documented.extend(words(text, "--", |character| {
                is_flag(character) || character.is_ascii_digit()
            }));
        }
    }
    for universal in ["--help", "--version"] {
        flags.remove(universal);
        documented.remove(universal);
    }
    assert_same(&documented, &flags);
}

#[test]
fn every_variable_is_documented_and_every_documented_variable_exists() {
    let is_variable = |character: char| character.is_ascii_uppercase() || character == '_';
    let mut variables = words(&help(), "ROLLCALL_", is_variable);
    let mut documented = words(&text(), "ROLLCALL_", is_variable);
    // The mere prefix.
    variables.remove("ROLLCALL_");
    documented.remove("ROLLCALL_");
    assert_same(&documented, &variables);
}

#[test]
fn the_table_of_codes_is_the_list_of_codes() {
    let page = include_str!("../../docs/api.md");
    let rows = page
        .lines()
        .skip_while(|line| *line != "| status | code | what to do |")
        .skip(2)
        .take_while(|line| !line.is_empty());
    let row = |code: &Code| {
        let status = code.status().as_u16();
        format!("| {status} | `{}` | {} |", code.as_str(), code.remedy())
    };
    let codes: Vec<String> = Code::ALL.iter().map(row).collect();
    assert_eq!(rows.collect::<Vec<_>>(), codes);
}

#[tokio::test]
async fn the_table_of_metrics_is_what_the_daemon_serves() {
    let daemon = Daemon::start(&[]).await;
    let mut events = crate::support::sse::Subscriber::new(&daemon, "").await;
    daemon
        .register("orders", &["h:1".to_owned()], &json!({}))
        .await;
    events
        .expect("instance.registered", std::time::Duration::from_secs(10))
        .await;
    let url = format!("{}/metrics", daemon.url());
    let metrics = daemon.client().get(url).send().await.unwrap();
    let mut metrics = metrics.text().await.unwrap();
    let url = format!("{}/metrics/scopes", daemon.url());
    let scopes = daemon.client().get(url).send().await.unwrap();
    metrics += &scopes.text().await.unwrap();
    let help = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP rollcall_"));
    let served: BTreeSet<String> = help
        .map(|line| {
            let (name, meaning) = line.split_once(' ').unwrap();
            format!("| `rollcall_{name}` | {meaning} |")
        })
        .collect();
    let page = include_str!("../../docs/operations.md");
    let rows = page.lines().filter(|line| line.starts_with("| `rollcall_"));
    assert_same(&rows.map(str::to_owned).collect(), &served);
    let is_metric = |character: char| character.is_ascii_lowercase() || character == '_';
    for name in words(&text(), "rollcall_", is_metric) {
        let row = format!("| `{name}` |");
        assert!(
            served.iter().any(|served| served.starts_with(&row)),
            "{name}"
        );
    }
}

#[test]
fn every_defect_of_the_first_console_has_a_test() {
    let page = include_str!("../../docs/console.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/console");
    let files = fs::read_dir(folder).unwrap();
    let tests: String = files
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let rows = page.lines().filter(|line| line.ends_with("` |"));
    let named: Vec<&str> = rows.map(|row| row.rsplit('`').nth(1).unwrap()).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("async fn {name}()")), "{name}");
    }
}

#[test]
fn every_complaint_has_a_test_with_its_number() {
    let page = include_str!("../../docs/complaints.md");
    let rows = page.lines().filter_map(|line| {
        let number = line.strip_prefix("| ")?.split(' ').next()?;
        number.parse::<usize>().ok()
    });
    let rows: BTreeSet<usize> = rows.collect();
    assert_eq!(rows, (1..=41).collect());
    let mut tests = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let named = text.split("fn complaint_").skip(1);
            let numbers = named.filter_map(|rest| rest.split('_').next()?.parse::<usize>().ok());
            tests.extend(numbers);
        }
    }
    assert_eq!(tests, rows);
}
