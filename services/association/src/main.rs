//! The `latchkey-association` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::run("association", association::serve)
}
