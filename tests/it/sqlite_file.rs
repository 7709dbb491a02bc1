//! The SQLite file: one daemon at a time by any path, and an unwritable file is reported.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, geteuid, prlimit};
use serde_json::json;
use tempfile::TempDir;

use crate::metrics::Samples;
use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;

const STORE_UP: &str = "rollcall_backend_up{backend=\"store\"}";

/// Runs the command to its end.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn serve(binary: impl AsRef<std::ffi::OsStr>, path: &Path) -> Command {
    let mut command = Command::new(binary);
    let store = format!("sqlite:{}", path.display());
    command.args(["--listen", "127.0.0.1:0", "--store", &store]);
    command
}

#[tokio::test]
async fn one_sqlite_file_has_one_daemon_by_whatever_path_it_is_named() {
    let dir = Arc::new(TempDir::new().unwrap());
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("data")).unwrap();
    let store = format!("sqlite:{}", path("data/r.db").display());
    let arguments = ["--store".to_owned(), store];
    let mut first = Daemon::launch(&arguments, Arc::clone(&dir));
    first.ready().await;
    fs::hard_link(path("data/r.db"), path("hard.db")).unwrap();
    symlink(path("data/r.db"), path("link.db")).unwrap();
    symlink(path("link.db"), path("link-of-link.db")).unwrap();
    symlink(path("data"), path("linked-folder")).unwrap();
    let others = [
        "data/r.db",
        "data/../data/./r.db",
        "link.db",
        "link-of-link.db",
        "linked-folder/r.db",
        "hard.db",
    ];
    for other in others {
        let (code, said) = run(&mut serve(BINARY, &path(other)));
        assert_eq!(code, Some(1), "{other}");
        assert!(
            said.contains("another rollcalld uses this file"),
            "{other}: {said}"
        );
    }
    // The refused daemons took nothing from the first one: it still writes, and beside the file is
    // only what SQLite keeps there.
    first.register("orders", &["a:1".into()], &json!({})).await;
    let mut names: Vec<_> = fs::read_dir(path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["r.db", "r.db-shm", "r.db-wal"]);

    // Its end, however it comes, frees the file for another path.
    first.signal(rustix::process::Signal::KILL);
    first.ended().await;
    let store = format!("sqlite:{}", path("link.db").display());
    let second = Daemon::start(&["--store".to_owned(), store]).await;
    assert_eq!(second.counts("orders").await, [1, 0, 0]);
}

/// Returns the error of a daemon that an unprivileged user starts on this file. The system
/// refuses root nothing, so the test changes its user.
fn refused(path: &Path, binary: &Path) -> String {
    let mut command = if geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(binary)
            .args(serve("", path).get_args());
        command
    } else {
        serve(binary, path)
    };
    let (code, said) = run(command.current_dir("/"));
    assert_eq!(code, Some(1), "{said}");
    said
}

#[tokio::test]
async fn a_sqlite_file_that_cannot_be_written_stops_the_start_and_is_named() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mode = |path: PathBuf, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::copy(BINARY, path("rollcalld")).unwrap();
    mode(path("rollcalld"), 0o755);
    let store = format!("sqlite:{}", path("r.db").display());
    let migrated = Command::new(BINARY)
        .args(["migrate", "--store", &store])
        .output();
    assert!(migrated.unwrap().status.success());
    // The file may be written in a folder where no journal can be made, then the other way.
    mode(path("r.db"), 0o666);
    mode(dir.path().to_owned(), 0o555);
    let no_journal = refused(&path("r.db"), &path("rollcalld"));
    mode(path("r.db"), 0o444);
    mode(dir.path().to_owned(), 0o777);
    let read_only = refused(&path("r.db"), &path("rollcalld"));
    mode(dir.path().to_owned(), 0o755);
    for said in [no_journal, read_only] {
        let named = format!("cannot open sqlite:{}: ", path("r.db").display());
        assert!(said.contains(&named), "{said}");
        let what_to_do =
            "rollcalld's user must be able to write this file and to create files in its folder";
        assert!(said.contains(what_to_do), "{said}");
    }
}

/// Waits until `/readyz` and the metric show whether the store accepts writes.
async fn says(daemon: &Daemon, takes_writes: bool) {
    let (status, check, up) = if takes_writes {
        (200, "ok", 1.0)
    } else {
        (503, "unavailable", 0.0)
    };
    let what = format!("it says that the store takes writes: {takes_writes}");
    eventually(Duration::from_secs(20), &what, || async {
        let (answer, body) = daemon.get("/readyz?backends=required").await;
        let up_metric = Samples::of(daemon).await.get(STORE_UP);
        (answer == status && body["checks"]["store"] == check && up_metric == up).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sqlite_file_that_another_program_locks_for_long_is_not_ready() {
    let daemon = Daemon::start(&[]).await;
    says(&daemon, true).await;
    let other = Connection::open(daemon.dir().join("rollcall.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    says(&daemon, false).await;
    // It is still alive and answers from memory.
    assert_eq!(daemon.get("/v1/services").await.0, 200);
    other.execute_batch("ROLLBACK").unwrap();
    says(&daemon, true).await;
    daemon.register("orders", &["a:1".into()], &json!({})).await;
}

#[tokio::test]
async fn a_full_disk_is_not_ready_until_something_can_be_written() {
    // A limit on the size of files refuses writes as a full disk does, if its signal is ignored.
    let wrapper = ["env", "--ignore-signal=XFSZ"];
    let dir = Arc::new(TempDir::new().unwrap());
    let daemon = Daemon::launch_under(&wrapper, Path::new(BINARY), &[], dir);
    daemon.ready().await;
    daemon.register("orders", &["a:1".into()], &json!({})).await;
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let limit = |current| {
        let maximum = None;
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    limit(Some(0));
    let path = "/v1/services/orders/instances/b:1";
    let (status, body) = daemon.put(path, json!({})).await;
    assert_eq!(
        (status.as_u16(), &body["code"]),
        (503, &json!("store_unavailable"))
    );
    says(&daemon, false).await;
    limit(None);
    // Without any write: readiness recovers by itself.
    says(&daemon, true).await;
    assert_eq!(daemon.put(path, json!({})).await.0, 201);
    assert_eq!(daemon.counts("orders").await, [2, 0, 0]);
}
