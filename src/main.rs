//! The `spoolfs` binary: everything it does is in the library.

fn main() -> std::process::ExitCode {
    spoolfs::cli::main()
}
