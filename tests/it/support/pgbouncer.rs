//! A private PgBouncer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, free_port, spawn};
use super::{eventually, postgres};

/// A PgBouncer in transaction mode.
pub(crate) struct PgBouncer {
    port: u16,
    process: Process,
    _dir: TempDir,
}

impl PgBouncer {
    /// With three sessions for all clients.
    pub(crate) async fn before(server: u16) -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        let users = dir.path().join("users");
        fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 3\n",
            users.display()
        );
        let path = dir.path().join("pgbouncer.ini");
        fs::write(&path, settings).unwrap();
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(dir.path(), 0o755);
        open(&users, 0o644);
        open(&path, 0o644);
        let child = spawn(&program(), Some("postgres"), |command| {
            command
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        });
        let bouncer = Self {
            port,
            process: Process::new(child),
            _dir: dir,
        };
        eventually(Duration::from_secs(20), "pgbouncer answers", || async {
            postgres::connect(&bouncer.url("postgres")).await.ok()
        })
        .await;
        bouncer
    }

    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// Debian keeps it out of the `PATH` of users.
fn program() -> String {
    let path = "/usr/sbin/pgbouncer";
    match fs::exists(path) {
        Ok(true) => path.to_owned(),
        _ => "pgbouncer".to_owned(),
    }
}
