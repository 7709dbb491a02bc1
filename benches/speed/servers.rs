//! The measured servers, as processes of their own, and the resources that the system accounts
//! for each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::load::{self, Connection};
use crate::support::daemon::BINARY;
use crate::support::eventually;
use crate::support::process::{Process, spawn};

/// A server that prints its address.
pub(crate) struct Server {
    process: Process,
    pub address: SocketAddr,
}

impl Server {
    /// Starts the daemon with a token and metrics, as in production.
    pub(crate) async fn daemon(folder: &Path, arguments: &[String]) -> Self {
        Self::daemon_of(BINARY, folder, arguments).await
    }

    /// Starts a build of the daemon.
    pub(crate) async fn daemon_of(program: &str, folder: &Path, arguments: &[String]) -> Self {
        let tokens = folder.join("token");
        fs::write(&tokens, TOKEN).unwrap();
        let mut all = vec!["--admin-token-file".to_owned()];
        all.push(tokens.to_str().unwrap().to_owned());
        all.extend_from_slice(arguments);
        if !all.iter().any(|argument| argument == "--listen") {
            all.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        }
        let log = fs::File::create(folder.join("log")).unwrap();
        let server = Self::start(program, folder, &all, log.into());
        eventually(Duration::from_secs(60), "it is ready", || async {
            let url = format!("http://{}/readyz", server.address);
            let answer = crate::support::daemon::client_builder()
                .build()
                .unwrap()
                .get(url)
                .send()
                .await;
            answer
                .is_ok_and(|answer| answer.status() == 200)
                .then_some(())
        })
        .await;
        server
    }

    /// Starts a baseline.
    pub(crate) fn baseline(name: &str, argument: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let arguments = ["--serve", name, argument].map(str::to_owned);
        let folder = std::env::temp_dir();
        Self::start(
            this.to_str().unwrap(),
            &folder,
            &arguments,
            Stdio::inherit(),
        )
    }

    fn start(program: &str, folder: &Path, arguments: &[String], log: Stdio) -> Self {
        let mut child = spawn(program, None, |command| {
            command
                .args(arguments)
                .current_dir(folder)
                .stdout(Stdio::piped())
                .stderr(log);
        });
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("{program} says {line:?}\n{log}");
        };
        Self {
            process: Process::new(child),
            address: address.parse().unwrap(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns a metric of the daemon, by name and labels.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let mut connection = Connection::open(self.address).await.unwrap();
        let asked = connection.ask(&request("GET", "/metrics", "", "")).await;
        assert_eq!(asked.unwrap(), 200);
        let text = connection.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .trim()
            .parse()
            .unwrap()
    }
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Formats a request with the daemon's token, which baselines ignore.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let headers = format!("Authorization: Bearer {TOKEN}\r\n{headers}");
    load::request(method, path, &headers, body)
}

/// Returns the processor time of a process.
pub(crate) fn processor_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // After the name, which may contain spaces: fields 12 and 13 are user and system time.
    let fields = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Returns the memory of a process, in bytes.
pub(crate) fn memory(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}
