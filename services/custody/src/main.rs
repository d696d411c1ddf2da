//! The key custody service as a process.

fn main() -> std::process::ExitCode {
    kit::run("custody", custody::serve)
}
