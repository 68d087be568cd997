//! Checks that go on after a difference: one run of a client shows all that a server owes it.

use std::fmt::Debug;

#[derive(Default)]
pub struct Checks {
    client: String,
    count: usize,
    differences: Vec<String>,
}

impl Checks {
    pub fn of(client: impl Into<String>) -> Checks {
        Checks { client: client.into(), ..Checks::default() }
    }

    pub fn same<T: PartialEq<U> + Debug, U: Debug>(&mut self, what: &str, got: T, expected: U) {
        let same = got == expected;
        self.holds(what, same, || format!("{got:?} instead of {expected:?}"));
    }

    /// The value inside, where the client reports no error.
    pub fn value<T: PartialEq + Debug, E: Debug>(
        &mut self,
        what: &str,
        got: Result<T, E>,
        expected: T,
    ) {
        let same = got.as_ref().is_ok_and(|got| *got == expected);
        self.holds(what, same, || format!("{got:?} instead of {expected:?}"));
    }

    /// An error that contains `text`.
    pub fn refused<T: Debug, E: ToString>(&mut self, what: &str, got: Result<T, E>, text: &str) {
        match got {
            Ok(value) => self.holds(what, false, || format!("{value:?} instead of \"{text}\"")),
            Err(error) => {
                let error = error.to_string();
                let same = error.contains(text);
                self.holds(what, same, || format!("the error \"{error}\" instead of \"{text}\""));
            }
        }
    }

    pub fn holds(&mut self, what: &str, holds: bool, found: impl FnOnce() -> String) {
        self.count += 1;
        if !holds {
            self.differences.push(format!("{what}: {}", found()));
        }
    }

    #[track_caller]
    pub fn finish(self) {
        assert!(self.count > 0, "{} has checked nothing", self.client);
        assert!(
            self.differences.is_empty(),
            "{}: {} of {} checks differ:\n{}",
            self.client,
            self.differences.len(),
            self.count,
            self.differences.join("\n")
        );
    }
}
