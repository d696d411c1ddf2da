//! Custody as a process.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::until;

/// A custody process that is ours to lose.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts it, armed with a crash point or not, and waits until it listens or is dead.
    pub async fn start(
        config: &Path,
        address: SocketAddr,
        crash_at: Option<(&str, &Path)>,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey-custody"));
        command.arg("--config").arg(config).stderr(Stdio::null());
        if let Some((point, file)) = crash_at {
            command.env("LATCHKEY_CRASH_AT", format!("{point}:{}", file.display()));
        }
        let mut process = Self {
            child: command.spawn().expect("it starts"),
            address,
        };
        until("custody listens, or is dead", async || {
            TcpStream::connect(address).is_ok() || process.is_dead()
        })
        .await;
        process
    }

    /// Whether it has ended.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
