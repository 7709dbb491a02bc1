//! The allowed dependencies between modules, by their `use` lines; and the SQL files of both
//! stores, which have the same names and are all used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each module the modules that it may name as `crate::…`. A module is a folder or a file
/// of `src`. One that is not listed may name no other.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &[]),
    ("backend", &[]),
    ("redis", &["backend", "metrics"]),
    ("store", &["model", "clock", "backend"]),
    ("lease", &["model", "clock", "backend", "redis", "metrics"]),
    ("event_log", &["model", "clock", "backend", "redis"]),
    ("coordination", &["backend", "redis"]),
    ("auth", &["model"]),
    ("admission", &[]),
    ("tls", &[]),
    ("metrics", &[]),
    ("client", &["auth", "model", "settings"]),
    ("agent", &["client", "model", "settings"]),
    ("operator", &["client", "clock", "model", "settings"]),
    ("directory", &["model", "store"]),
    ("history", &["model", "clock", "directory", "event_log"]),
    (
        "liveness",
        &[
            "model",
            "clock",
            "backend",
            "store",
            "lease",
            "coordination",
            "directory",
            "actor",
            "metrics",
        ],
    ),
    (
        "replication",
        &[
            "model",
            "clock",
            "event_log",
            "backend",
            "directory",
            "history",
            "store",
            "actor",
            "liveness",
            "metrics",
        ],
    ),
    (
        "actor",
        &[
            "model",
            "clock",
            "backend",
            "store",
            "lease",
            "event_log",
            "coordination",
            "directory",
            "metrics",
        ],
    ),
    (
        "http",
        &[
            "model",
            "clock",
            "backend",
            "store",
            "lease",
            "actor",
            "liveness",
            "directory",
            "history",
            "replication",
            "auth",
            "admission",
            "metrics",
        ],
    ),
    ("dns", &["model", "directory", "metrics"]),
    (
        "settings",
        &[
            "dns",
            "model",
            "backend",
            "store",
            "lease",
            "liveness",
            "actor",
            "auth",
            "admission",
            "tls",
        ],
    ),
    (
        "daemon",
        &[
            "dns",
            "model",
            "clock",
            "backend",
            "store",
            "lease",
            "event_log",
            "coordination",
            "liveness",
            "directory",
            "history",
            "replication",
            "actor",
            "http",
            "settings",
            "auth",
            "admission",
            "tls",
            "metrics",
        ],
    ),
    (
        "program",
        &[
            "auth", "client", "settings", "store", "agent", "daemon", "operator",
        ],
    ),
    ("lib", &[]),
    ("main", &[]),
];

/// Crates that only these modules may name: no SQL, Redis or HTTP elsewhere.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["store"]),
    ("tokio_postgres", &["store"]),
    ("deadpool_postgres", &["store"]),
    ("refinery", &["store"]),
    ("redis", &["lease", "event_log", "coordination", "redis"]),
    ("actix", &["actor", "daemon", "main"]),
    ("actix_web", &["http", "daemon"]),
    ("clap", &["settings"]),
    ("hickory_proto", &["dns"]),
    ("quick_xml", &["http"]),
    ("prometheus_client", &["metrics"]),
    ("clap_complete", &["settings"]),
    ("reqwest", &["client", "agent", "operator"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The first word after each `prefix` in the code, tests and comments left out.
fn named_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in lines {
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &line[at + prefix.len()..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            names.insert(rest[..end].to_owned());
        }
    }
    names
}

/// Returns the forbidden dependencies of a file.
fn breaches(module: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let Some((_, may)) = MAY_KNOW.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "{module} is a new module: list in tests/it/layering.rs the modules that it may name"
        )];
    };
    for known in named_after(text, "crate::") {
        if known != module && !may.contains(&known.as_str()) {
            breaches.push(format!("{module} names crate::{known}"));
        }
    }
    for (name, modules) in CRATES {
        let uses = ["", "::"].iter().any(|root| {
            let named = named_after(text, &format!("use {root}{name}"));
            named.contains("")
        });
        if uses && !modules.contains(&module) {
            breaches.push(format!("{module} names the crate {name}"));
        }
    }
    breaches
}

#[test]
fn every_module_knows_only_the_allowed_ones() {
    let src = src();
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap();
        let module = module.strip_suffix(".rs").unwrap_or(module);
        seen.insert(module.to_owned());
        for breach in breaches(module, &fs::read_to_string(&path).unwrap()) {
            broken.push(format!("{}: {breach}", inside.display()));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    let listed: BTreeSet<String> = MAY_KNOW
        .iter()
        .map(|(module, _)| (*module).to_owned())
        .collect();
    assert_eq!(
        seen, listed,
        "the modules of src and the modules of this test"
    );
}

/// Returns the paths that an import names, without braces.
fn expand(path: &str) -> Vec<String> {
    let Some((prefix, rest)) = path.split_once('{') else {
        return vec![path.trim().to_owned()];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in rest[..rest.rfind('}').unwrap()].chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().unwrap().push(c);
            }
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| expand(&format!("{prefix}{}", part.trim())))
        .collect()
}

/// Returns the file that an import of `file` names, with the crate in the folder `root`.
fn imported(root: &Path, file: &Path, import: &str) -> Option<PathBuf> {
    let mut segments = import.split("::").peekable();
    let mut at = match segments.next()? {
        "crate" => root.to_owned(),
        "super" => file.parent()?.to_owned(),
        _ => return None,
    };
    while segments.next_if_eq(&"super").is_some() {
        at.pop();
    }
    let mut found = None;
    for segment in segments {
        at.push(segment);
        if at.is_dir() {
            found = Some(at.join("mod.rs"));
        } else {
            let file = at.with_extension("rs");
            return if file.exists() { Some(file) } else { found };
        }
    }
    found
}

/// For each file of a folder the other files of the folder that it imports. A `mod.rs` assembles
/// its folder, so what it imports does not count, and neither does an import from it by a file of
/// the folder.
fn import_graph(root: &Path, folder: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let is_assembly = |path: &PathBuf| path.ends_with("mod.rs") || path.ends_with("main.rs");
    let files = sources(folder)
        .into_iter()
        .filter(|path| !is_assembly(path));
    let edges = files.map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().map(str::trim);
        let code: String = lines
            .filter(|line| !line.starts_with("//"))
            .flat_map(|line| [line, " "])
            .collect();
        let imports = code.split(';').filter_map(|statement| {
            let is_word = |at: &usize| !statement[..*at].ends_with(char::is_alphanumeric);
            let mut words = statement.rmatch_indices("use ").map(|(at, _)| at);
            let at = words.find(is_word)?;
            Some(expand(&statement[at + "use ".len()..]))
        });
        let targets = imports
            .flatten()
            .filter_map(|import| imported(root, &file, &import))
            .filter(|target| target.starts_with(folder) && *target != file)
            .filter(|target| !(is_assembly(target) && file.starts_with(target.parent().unwrap())));
        let targets = targets.collect();
        (file, targets)
    });
    edges.collect()
}

/// Returns the first import cycle that begins at the last file of `path`.
fn cycle(graph: &BTreeMap<PathBuf, Vec<PathBuf>>, path: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let next = graph.get(path.last()?)?.iter();
    next.map(|file| [path, std::slice::from_ref(file)].concat())
        .find_map(|longer| {
            if path.contains(longer.last()?) {
                Some(longer)
            } else {
                cycle(graph, &longer)
            }
        })
}

#[test]
fn no_module_has_an_import_cycle() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/speed");
    let modules = fs::read_dir(src())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut folders: Vec<(PathBuf, PathBuf)> = modules
        .filter(|path| path.is_dir())
        .map(|folder| (src(), folder))
        .collect();
    folders.push((benches.clone(), benches));
    for (root, folder) in folders {
        let graph = import_graph(&root, &folder);
        for file in graph.keys() {
            assert_eq!(cycle(&graph, std::slice::from_ref(file)), None);
        }
    }
}

#[test]
fn a_breach_is_seen() {
    for (module, text, breach) in [
        (
            "model",
            "use crate::store::Store;",
            "model names crate::store",
        ),
        (
            "store",
            "use crate::lease::Lease;",
            "store names crate::lease",
        ),
        (
            "actor",
            "fn f(c: &crate::settings::Config) {}",
            "actor names crate::settings",
        ),
        (
            "http",
            "use crate::event_log::EventLog;",
            "http names crate::event_log",
        ),
        (
            "http",
            "use rusqlite::Connection;",
            "http names the crate rusqlite",
        ),
        ("actor", "use redis::Client;", "actor names the crate redis"),
        (
            "model",
            "use actix_web::web;",
            "model names the crate actix_web",
        ),
        (
            "unknown_module",
            "",
            "unknown_module is a new module: list in tests/it/layering.rs the modules that it may name",
        ),
    ] {
        assert_eq!(breaches(module, text), [breach], "{text}");
    }
    let fine = "use crate::model::Scope;\n// use crate::http::Api;\nuse super::redis::X;\n";
    assert_eq!(breaches("actor", fine), Vec::<String>::new());
}

/// Files of PostgreSQL only: an SQLite file has one daemon at a time.
const OF_REPLICAS: [&str; 3] = ["V3__replicas", "V7__replica_state", "attest"];

#[test]
fn both_stores_have_the_same_sql_files_and_use_each() {
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let files = |folder: &str| -> BTreeMap<String, String> {
        let entries = fs::read_dir(sql.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect()
    };
    for kind in ["migrations", "queries"] {
        let (postgres, sqlite) = (
            files(&format!("postgres/{kind}")),
            files(&format!("sqlite/{kind}")),
        );
        let of_replicas = |name: &&String| !OF_REPLICAS.contains(&name.as_str());
        assert!(
            postgres.keys().filter(of_replicas).eq(sqlite.keys()),
            "{kind} differ"
        );
        assert!(!postgres.is_empty());
    }
    for store in ["postgres", "sqlite"] {
        let files_of_store = sources(&src().join("store").join(store));
        let code: String = files_of_store
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        for (name, text) in files(&format!("{store}/queries")) {
            assert!(
                code.contains(&format!("sql!(\"{name}\")")),
                "{store}/{name}.sql is not used"
            );
            assert!(
                text.starts_with("-- ") && text.contains("Called by "),
                "{store}/{name}.sql has no header"
            );
            assert!(
                !text
                    .lines()
                    .any(|line| !line.starts_with("--") && line.contains(';')),
                "{store}/{name}.sql has more than one statement"
            );
        }
    }
}
