//! Private nginx and HAProxy servers with their default time limits.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::eventually;
use super::process::{Process, free_port, spawn};

/// A running proxy.
pub(crate) struct WebProxy {
    url: String,
    pub process: Process,
    dir: TempDir,
}

impl WebProxy {
    /// nginx with one server on a port of its own, in which `locations` are.
    pub(crate) async fn nginx(locations: &str) -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        write_nginx(dir.path(), port, "", locations);
        Self::nginx_in(dir, port).await
    }

    /// HAProxy with the time limits of Debian's package, whose backend has these lines.
    pub(crate) async fn haproxy(backend: &str) -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        let text = format!(
            "defaults\n  mode http\n  timeout connect 5000\n  timeout client 50000\n  timeout server 50000\n\
             frontend all\n  bind 127.0.0.1:{port}\n  default_backend rollcall\n\
             backend rollcall\n{backend}\n"
        );
        Self::listening(haproxy(dir.path(), &text), port, dir).await
    }

    async fn listening(process: Process, port: u16, dir: TempDir) -> Self {
        let mut proxy = Self {
            url: format!("http://127.0.0.1:{port}"),
            process,
            dir,
        };
        eventually(Duration::from_secs(20), "the proxy listens", || {
            let stderr = fs::read_to_string(proxy.dir.path().join("stderr"));
            assert_eq!(proxy.process.status(), None, "{stderr:?}");
            let connected = TcpStream::connect(("127.0.0.1", port)).is_ok();
            async move { connected.then_some(()) }
        })
        .await;
        proxy
    }

    /// nginx in a folder that has its configuration, by [`write_nginx`].
    pub(crate) async fn nginx_in(dir: TempDir, port: u16) -> Self {
        let child = spawn("nginx", None, |command| {
            command
                .args(["-p", dir.path().to_str().unwrap(), "-c", "nginx.conf"])
                .stderr(File::create(dir.path().join("stderr")).unwrap());
        });
        Self::listening(Process::new(child), port, dir).await
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// The master process ends its workers, which would outlive it if it were killed.
impl Drop for WebProxy {
    fn drop(&mut self) {
        self.process.end_by(Signal::TERM);
    }
}

/// Starts an HAProxy with this configuration, in a folder.
pub(crate) fn haproxy(folder: &Path, text: &str) -> Process {
    let config = folder.join("haproxy.cfg");
    fs::write(&config, text).unwrap();
    Process::new(spawn("haproxy", None, |command| {
        command
            .args(["-db", "-f"])
            .arg(&config)
            .stdout(File::create(folder.join("stdout")).unwrap())
            .stderr(File::create(folder.join("stderr")).unwrap());
    }))
}

/// Writes the configuration of an nginx in a folder.
pub(crate) fn write_nginx(folder: &Path, port: u16, http: &str, locations: &str) {
    let text = format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log;\n\
         events {{}}\n\
         http {{\n  access_log access.log;\n  client_body_temp_path body; proxy_temp_path proxy;\n\
         fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n  {http}\n\
         server {{ listen 127.0.0.1:{port};\n{locations}\n  }}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
}
