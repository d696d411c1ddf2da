//! The `latchkey-gateway` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::run("gateway", gateway::serve)
}
