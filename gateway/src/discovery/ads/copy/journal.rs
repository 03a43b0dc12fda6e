//! The file as bytes: frames, each a length, a checksum and a record, and what they say together.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message;
use weir_config::{
    wire::{discovery::Resource, resource::Sync},
    xxh64::xxh64,
};

use super::{
    super::push::Name,
    Identity,
    record::{Kind, Owner, Record},
};

pub(super) const MAGIC: &[u8; 16] = b"weir last good 1";
/// Length and checksum.
const FRAME_HEAD: usize = 12;

/// Where a frame is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A journal while it is read.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) committed: BTreeMap<Name, (Resource, Extent)>,
    pub(super) sync: Sync,
    pub(super) as_of: Option<SystemTime>,
    /// Up to the last Commit; 0: there is none.
    pub(super) size: u64,
    /// Up to the Commit before that.
    pub(super) size_before: u64,
    pub(super) problem: Option<String>,
}

impl Journal {
    pub(super) fn read(&mut self, bytes: &Bytes, identity: &Identity) -> Result<(), String> {
        let mut rest = bytes.clone();
        if !rest.starts_with(MAGIC) {
            return Err(
                "is no copy of a configuration, or one of another version; it is not used \
                        and will be replaced"
                    .to_owned(),
            );
        }
        rest = rest.slice(MAGIC.len()..);
        match next_record(&mut rest).and_then(|record| record.kind) {
            Some(Kind::Owner(owner)) if owner == Owner::of(identity) => {}
            Some(Kind::Owner(Owner { namespace, service_account })) => {
                return Err(format!(
                    "is the configuration of {service_account} in {namespace}; it is not used and \
                     will be replaced"
                ));
            }
            _ => return Err("has a torn beginning; it is not used and will be replaced".to_owned()),
        }
        self.read_pushes(bytes, rest)
    }

    fn read_pushes(&mut self, bytes: &Bytes, mut rest: Bytes) -> Result<(), String> {
        let mut open: Vec<(Name, Option<(Resource, Extent)>)> = Vec::new();
        loop {
            let offset = (bytes.len() - rest.len()) as u64;
            let record = next_record(&mut rest);
            let end = (bytes.len() - rest.len()) as u64;
            match record.and_then(|record| record.kind) {
                Some(Kind::Put(put)) => {
                    let extent = Extent { offset, length: end - offset };
                    open.extend(put.into_parts().map(|(name, it)| (name, Some((it, extent)))));
                }
                Some(Kind::Remove(remove)) => open.extend(remove.name().map(|name| (name, None))),
                Some(Kind::Commit(commit)) => {
                    for (name, change) in open.drain(..) {
                        match change {
                            Some(resource) => self.committed.insert(name, resource),
                            None => self.committed.remove(&name),
                        };
                    }
                    self.as_of = Some(UNIX_EPOCH + Duration::from_secs(commit.unix_seconds));
                    self.sync = Sync { version: commit.version, position: commit.position };
                    self.size_before = std::mem::replace(&mut self.size, end);
                }
                Some(Kind::Owner(_)) => return Err(self.torn(offset)),
                None if rest.is_empty() && open.is_empty() && end == offset => return Ok(()),
                None => return Err(self.torn(offset)),
            }
        }
    }

    /// The versions that `earlier` does not have.
    pub(super) fn beyond(&self, earlier: &Self) -> BTreeMap<Name, String> {
        let version = |journal: &Self, name: &Name| {
            journal.committed.get(name).map(|(resource, _)| resource.version.clone())
        };
        let names = self.committed.keys();
        let changed = names.filter(|name| version(self, name) != version(earlier, name));
        changed.map(|name| (name.clone(), version(self, name).unwrap_or_default())).collect()
    }

    fn torn(&self, offset: u64) -> String {
        if self.size == 0 {
            return format!("is torn at byte {offset}, in its first push; it is not used");
        }
        format!(
            "is torn at byte {offset}; the last complete push before, {}, is used",
            self.sync.version
        )
    }
}

pub(super) fn append_frame(bytes: &mut Vec<u8>, kind: Kind) {
    let record = Record { kind: Some(kind) }.encode_to_vec();
    // Messages of gRPC are smaller by far.
    let length = u32::try_from(record.len()).expect("a record is less than 4 GiB");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&xxh64(&record, 0).to_le_bytes());
    bytes.extend_from_slice(&record);
}

/// Takes a whole record off the front; leaves what is not one where it is.
pub(super) fn next_record(bytes: &mut Bytes) -> Option<Record> {
    let head: &[u8; FRAME_HEAD] = bytes.first_chunk()?;
    let [a, b, c, d, checksum @ ..] = *head;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let end = FRAME_HEAD.checked_add(length)?;
    if bytes.len() < end {
        return None;
    }
    let content = bytes.slice(FRAME_HEAD..end);
    if xxh64(&content, 0) != u64::from_le_bytes(checksum) {
        return None;
    }
    let record = Record::decode(content).ok()?;
    *bytes = bytes.slice(end..);
    Some(record)
}
