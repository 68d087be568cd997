//! What a namespace of a 0-db is: its settings and its mode, also where parts of that are lost.

use super::format::{self, INDEX_HEADER_BYTES, id_of};
use super::report::Report;
use super::source::{OldNamespace, Window};
use super::walk::{Item, Walk};
use crate::engine::namespace::{Access, Mode, Settings};

/// Index files and records that are looked at to find out the mode of a namespace.
const MODE_FILES_MAX: usize = 64;
const MODE_RECORDS_MAX: usize = 4096;

/// The settings, or, where they are lost, such that nobody can do anything before somebody looked: who
/// might read the namespace is not known.
pub fn find_settings(
    old: &OldNamespace,
    sequential: bool,
    report: &mut Report,
) -> Result<Settings, String> {
    let mode = if sequential { Mode::Sequential } else { Mode::User };
    let what = match old.descriptor()? {
        Ok(descriptor) => {
            if descriptor.name != old.name {
                report.damage(&format!(
                    "{}: it names another namespace ({:?}); the directory's name is taken",
                    old.descriptor_path().display(),
                    String::from_utf8_lossy(&descriptor.name)
                ));
            }
            let password = (!descriptor.password.is_empty()).then_some(descriptor.password);
            return Ok(Settings {
                public: descriptor.public,
                worm: descriptor.worm,
                max_bytes: descriptor.max_bytes,
                password,
                ..Settings::new(mode)
            });
        }
        Err(what) => what,
    };
    report.damage(&format!(
        "{}: {what}: the password and the settings of namespace {} are lost, so it is frozen; set them with \
         NSSET, then NSSET {} freeze 0",
        old.descriptor_path().display(),
        old.shown(),
        String::from_utf8_lossy(&old.name)
    ));
    Ok(Settings { access: Access::Frozen, public: false, ..Settings::new(mode) })
}

/// Whether a namespace is in sequential mode. Most index files say so, unless the keys cannot be ids; where
/// no index can be read, the keys say so.
pub fn find_mode(old: &OldNamespace, report: &mut Report) -> Result<bool, String> {
    let mut votes = [0u32; 2];
    for number in old.index_files.keys().take(MODE_FILES_MAX) {
        let mut window = Window::open(&old.index_path(*number))?;
        let header = window.at(0, INDEX_HEADER_BYTES as usize);
        if let Ok(sequential) = format::check_index_header(header, *number) {
            votes[usize::from(sequential)] += 1;
        }
    }
    let voted = votes[1] > votes[0];
    if votes[0] > votes[1] {
        return Ok(false);
    }
    let (ids, records) = first_ids(old)?;
    let sequential = if votes[1] > 0 {
        records == 0 || ids == Found::Ids || ids == Found::CountedIds
    } else {
        ids == Found::CountedIds
    };
    if sequential == voted && votes[1] > 0 {
        return Ok(sequential);
    }
    if records == 0 && old.index_files.is_empty() && old.data_files.is_empty() {
        return Ok(false);
    }
    let mode = if sequential { "sequential" } else { "user" };
    report.damage(&format!(
        "{}: no index file tells the mode in a way that fits: the namespace is taken to be in {mode} mode, by \
         its keys",
        old.index_directory.display()
    ));
    Ok(sequential)
}

/// What the keys of the first records can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Not all have the length of an id.
    OtherKeys,
    Ids,
    /// They count up from 0, as 0-db gives them out.
    CountedIds,
}

fn first_ids(old: &OldNamespace) -> Result<(Found, usize), String> {
    let Some(first) = old.data_files.keys().next() else { return Ok((Found::OtherKeys, 0)) };
    let mut walk = Walk::open(&old.data_path(*first), old.index_path(*first))?;
    let (mut next_id, mut records) = (0, 0);
    let mut ids = Found::CountedIds;
    while records < MODE_RECORDS_MAX
        && let Some(item) = walk.next_item()
    {
        let (offset, head) = match item {
            Item::Record { offset, head, .. } => (offset, head),
            Item::Placeholder { .. } => {
                next_id += 1;
                continue;
            }
            Item::Lost(lost) => {
                next_id += (lost.end - lost.start) / format::SEQUENTIAL_RECORD_BYTES_MIN + 1;
                continue;
            }
        };
        records += 1;
        match walk.record(offset, &head).map(|(key, _)| id_of(key)) {
            Some(Some(id)) if id <= next_id => next_id += u64::from(!head.is_delete()),
            Some(Some(_)) if ids != Found::OtherKeys => ids = Found::Ids,
            _ => ids = Found::OtherKeys,
        }
    }
    Ok((if records == 0 { Found::OtherKeys } else { ids }, records))
}
