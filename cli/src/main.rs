//! `ferrite`: see the library beside it.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::give_back_soon();
    ferrite_cli::run()
}
