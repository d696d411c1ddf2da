//! The auditor as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::run("auditor", auditor::serve)
}
