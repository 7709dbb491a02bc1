//! The files for containers, Kubernetes and systemd: they name only known variables, contain no
//! secret, and wait longer for the stop than the daemon takes. `tests/container` runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::BINARY;

const PREFIX: &str = "ROLLCALL_";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Everything that starts a daemon.
fn files() -> Vec<PathBuf> {
    let mut files = vec!["Dockerfile".into(), "compose.yaml".into()];
    for folder in ["deploy/kubernetes", "deploy/systemd", "deploy/compose"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                files.push(Path::new(folder).join(entry.file_name()));
            }
        }
    }
    files
}

/// The names of the daemon's variables that a text has, comments included.
fn variables(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c: char| !is_of_name(c))
        .filter(|word| word.starts_with(PREFIX) && word.len() > PREFIX.len())
        .map(str::to_owned)
        .collect()
}

fn help() -> String {
    let output = Command::new(BINARY).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the texts between `open` and `close`.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let parts = text.split(open).skip(1);
    parts
        .filter_map(|part| Some(part.split_once(close)?.0))
        .collect()
}

/// Returns the variables of compose, each with the text behind its name.
fn asked_for(compose: &str) -> Vec<(&str, &str)> {
    let asked = between(compose, "${", "}").into_iter();
    asked
        .map(|asked| asked.split_at(asked.find(':').unwrap_or(asked.len())))
        .collect()
}

/// Whether a name is that of a secret, and not of a file with one.
fn is_secret(name: &str) -> bool {
    ["PASSWORD", "TOKEN"]
        .iter()
        .any(|word| name.ends_with(word))
}

/// Lines that give a secret other than by asking for it.
fn given_secrets(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| {
            let line = line.trim().trim_start_matches("Environment=");
            let given = line.split_once(": ").or_else(|| line.split_once('='));
            given.is_some_and(|(name, value)| {
                is_secret(name) && !(value.starts_with("${") && value.contains(":?"))
            })
        })
        .collect()
}

/// URLs with a password that is not asked for.
fn passwords_in_urls(text: &str) -> Vec<&str> {
    ["postgres://", "redis://", "rediss://"]
        .into_iter()
        .flat_map(|scheme| between(text, scheme, "@"))
        .filter(|user| !user.contains(char::is_whitespace))
        .filter(|user| {
            let password = user.split_once(':').map(|(_, password)| password);
            password.is_some_and(|password| !password.starts_with("${"))
        })
        .collect()
}

/// The value of a setting, by the text before it.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key}")).trim()
}

/// The default of `--shutdown-timeout`, by the daemon's own word.
fn shutdown_timeout() -> Duration {
    let help = help();
    let option = help.split("--shutdown-timeout ").nth(1).unwrap();
    let default = between(option, "[default: ", "]")[0];
    seconds(default)
}

fn seconds(text: &str) -> Duration {
    let number = text.strip_suffix('s').unwrap_or(text);
    Duration::from_secs(number.parse().unwrap())
}

#[test]
fn only_variables_that_the_daemon_knows_are_named() {
    let known = variables(&help());
    assert!(known.contains("ROLLCALL_STORE"), "{known:?}");
    assert!(known.contains("ROLLCALL_ADMIN_TOKEN"), "{known:?}");
    let mut named = BTreeSet::new();
    for file in files() {
        let here = variables(&read(&file));
        let unknown: Vec<_> = here.difference(&known).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", file.display());
        named.extend(here);
    }
    assert!(named.len() > 5, "{named:?}");
}

#[test]
fn no_secret_is_given_anywhere() {
    for file in files() {
        let text = read(&file);
        let name = file.display();
        assert_eq!(given_secrets(&text), Vec::<&str>::new(), "{name}");
        assert_eq!(passwords_in_urls(&text), Vec::<&str>::new(), "{name}");
        assert!(!text.contains("ALLOW_ANONYMOUS"), "{name}");
    }
    let compose = read("compose.yaml");
    let secrets = asked_for(&compose)
        .into_iter()
        .filter(|(name, _)| is_secret(name));
    let mut count = 0;
    for (name, rest) in secrets {
        assert!(rest.starts_with(":?"), "{name} has a default");
        count += 1;
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn a_secret_that_is_given_is_seen() {
    for given in [
        "      POSTGRES_PASSWORD: rollcall",
        "ENV ROLLCALL_ADMIN_TOKEN=0123",
        "Environment=ROLLCALL_READ_TOKEN=0123",
        "      GF_SECURITY_ADMIN_PASSWORD: ${GRAFANA_PASSWORD:-admin}",
    ] {
        assert_eq!(given_secrets(given), [given]);
    }
    for url in ["postgres://a:b@c/d", "redis://:b@c"] {
        assert_eq!(passwords_in_urls(url).len(), 1, "{url}");
    }
    for asked in [
        "      POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?}",
        "ROLLCALL_READ_TOKEN_FILE=/run/token",
        "postgres://a:${B:?}@c/d",
    ] {
        assert_eq!(given_secrets(asked), Vec::<&str>::new());
        assert_eq!(passwords_in_urls(asked), Vec::<&str>::new());
    }
}

#[test]
fn supervisors_wait_longer_for_the_stop_than_the_daemon_takes() {
    let takes = shutdown_timeout();
    assert_eq!(takes, Duration::from_secs(20));
    let compose = read("compose.yaml");
    let daemons = compose.split("x-rollcalld:").nth(1).unwrap();
    let daemons = daemons.split("\nservices:").next().unwrap();
    let kubernetes = read("deploy/kubernetes/deployment.yaml");
    let systemd = read("deploy/systemd/rollcalld.service");
    for waits in [
        value(daemons, "stop_grace_period: "),
        value(&kubernetes, "terminationGracePeriodSeconds: "),
        value(&systemd, "TimeoutStopSec="),
    ] {
        assert!(seconds(waits) > takes, "{waits}");
    }
}

#[test]
fn the_image_says_which_version_it_has_and_is_not_root() {
    let dockerfile = read("Dockerfile");
    assert_eq!(
        value(&dockerfile, "ARG VERSION="),
        env!("CARGO_PKG_VERSION")
    );
    let user: u32 = value(&dockerfile, "USER ")
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(user, 0);
    let kubernetes = read("deploy/kubernetes/deployment.yaml");
    assert_eq!(value(&kubernetes, "runAsUser: "), user.to_string());
    let kustomization = read("deploy/kubernetes/kustomization.yaml");
    assert_eq!(value(&kustomization, "newTag: "), env!("CARGO_PKG_VERSION"));
}

/// Whatever is not named there does not get into an image, nor to the engine that builds it.
#[test]
fn the_context_of_the_image_is_a_list_of_what_belongs_there() {
    let list = read(".dockerignore");
    let rules: Vec<_> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rules[0], "*");
    for rule in &rules[1..] {
        let path = rule.strip_prefix('!').unwrap();
        assert!(root().join(path).exists(), "{path}");
    }
}
