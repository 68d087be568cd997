//! Makes the directory of a version for `compat-tests/fixtures`, once, when the format gets that version:
//! `cargo run -p compat-tests --example make_fixture -- 2`.

use compat_tests::{fixture, server};

fn main() {
    let version = std::env::args().nth(1).expect("the version of the format");
    let archive = fixture::dir().join(format!("data-{version}.tar.gz"));
    assert!(!archive.exists(), "{} is there: what is in git stays", archive.display());
    let home = server::scratch_dir();
    let list = fixture::make(home.path());
    fixture::pack(home.path(), &list, &version);
    println!("{} has {} bytes", archive.display(), archive.metadata().expect("it is there").len());
}
