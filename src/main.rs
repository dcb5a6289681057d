//! Turns a result into an exit code.

fn main() -> std::process::ExitCode {
    bitacora::cli::main()
}
