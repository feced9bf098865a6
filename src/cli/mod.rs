//! The command line.

/// Runs the command given on the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
