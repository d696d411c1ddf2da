//! The reset service as a process.

fn main() -> std::process::ExitCode {
    kit::run("reset", reset::serve)
}
