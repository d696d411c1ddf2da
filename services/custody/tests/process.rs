//! Custody as a process: nobody reads its memory, and a crash writes none of it down.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use kit::Tasks;
use latchkey_proto::audit::v1::EntryKind;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use support::{Bed, until, with_token};

#[test]
fn nobody_reads_the_memory_of_custody() {
    with_token("nobody_reads_the_memory_of_custody", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

/// Another process of the same user. The superuser of a test has capabilities that no service has, so they are taken
/// away from both.
fn same_user(program: &str) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
    command.args(["--", program]);
    command
}

/// Custody with no limit on core dumps but its own, in a folder where one would be found.
async fn start(bed: &Bed, address: SocketAddr, more: &str) -> Child {
    let config = bed.config("process", address, more);
    let child = same_user("sh")
        .args(["-c", "ulimit -c unlimited && exec \"$0\" --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_latchkey-custody"))
        .arg(config)
        .current_dir(&bed.dir)
        .stderr(fs::File::create(bed.dir.join("custody.log")).unwrap())
        .spawn()
        .unwrap();
    until("custody listens", async || {
        TcpStream::connect(address).is_ok()
    })
    .await;
    child
}

fn reads(file: &str) -> bool {
    let mut command = same_user("head");
    command.args(["-c", "1", file]).stdin(Stdio::null());
    let output = command.output().unwrap();
    output.status.success() && output.stdout.len() == 1
}

/// Whether a debugger could read its memory. An empty read is enough: it is the opening that is allowed or not.
fn opens(file: &str) -> bool {
    let mut command = same_user("head");
    command.args(["-c", "0", file]).stdin(Stdio::null());
    command.output().unwrap().status.success()
}

/// The first SIGSEGV that no instruction caused is taken by Rust's own handler of stack overflows, the next is not.
async fn crash(mut child: Child) -> ExitStatus {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let mut ended = None;
    until("custody crashes", async || {
        ended = child.try_wait().unwrap();
        ended.is_some() || kill_process(pid, Signal::SEGV).is_err()
    })
    .await;
    let status = ended.unwrap();
    assert_eq!(status.signal(), Some(Signal::SEGV.as_raw()));
    status
}

fn cores(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("core"))
        .count()
}

async fn told(bed: &Bed, what: &str) {
    until(what, async || {
        let entries = bed.auditor.entries(EntryKind::Start);
        entries.iter().any(|entry| entry.detail.contains(what))
    })
    .await;
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();

    let child = start(&bed, address, "").await;
    // It listens before it has its secrets; what it tells of its start comes after.
    told(&bed, "memory.allow_dumps = false").await;
    for file in ["maps", "mem", "environ", "auxv"] {
        let path = format!("/proc/{}/{file}", child.id());
        assert!(!reads(&path) && !opens(&path), "{path}");
    }
    assert!(
        !crash(child).await.core_dumped(),
        "a core image was written"
    );
    assert_eq!(cores(dir), 0);

    // In a laboratory that says so it is otherwise; so the test would see it.
    let child = start(&bed, address, "memory.allow_dumps = true").await;
    assert!(reads(&format!("/proc/{}/maps", child.id())));
    let log = fs::read_to_string(dir.join("custody.log")).unwrap();
    assert!(log.contains("memory.allow_dumps"), "{log}");
    told(&bed, "memory.allow_dumps = true").await;
    let written = crash(child).await.core_dumped();
    assert!(written, "no core image was written");

    trigger.fire();
    tasks.join().await;
}
