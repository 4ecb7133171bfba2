//! The program `xenpaging-trace`.

fn main() -> std::process::ExitCode {
    pager_trace::cli::main(std::env::args_os())
}
