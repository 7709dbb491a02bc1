//! Servers as child processes: started, frozen, killed and started again on the same
//! port, and never left behind.

use std::io;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::{Instant, sleep};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that starts every server. The system ends a server when the thread that started
/// it ends, and this one runs as long as the test process, however that ends.
static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, queue) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, started) in queue {
            let _ = started.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts a command whose process ends with this one. `program` must be an absolute
/// path or in `PATH`; `user` is switched to if the tests run as root.
pub(crate) fn spawn(
    program: &str,
    user: Option<&str>,
    configure: impl FnOnce(&mut Command),
) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user
        && geteuid().is_root()
    {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    configure(&mut command);
    let (started, child) = mpsc::channel();
    STARTER.lock().unwrap().send((command, started)).unwrap();
    child.recv().unwrap().unwrap_or_else(|error| {
        panic!("cannot start {program}: {error}; tests/run installs what the tests need")
    })
}

/// Returns a port of the loopback interface for a server that will be restarted on it: below
/// the range of client ports, and returned only once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 40).unwrap() * 300;
    loop {
        let port = 18_200 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 14_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running child that is killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end, at most for `limit`.
    pub(crate) async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < limit, "still running after {limit:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end, and waits a little until it has.
    pub(crate) fn end_by(&mut self, signal: Signal) {
        self.signal(signal);
        for _ in 0..200 {
            if self.status().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended, and how.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        let status = self.0.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
