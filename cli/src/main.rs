//! `ferrite`: the one binary people run.

fn main() {
    println!("ferrite {}", env!("CARGO_PKG_VERSION"));
}
