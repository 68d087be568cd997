//! The cleaner.
use super::Answer;

#[derive(Default)]
pub struct Cleaner {
    pub(super) answers: Vec<(u64, Answer)>,
}
