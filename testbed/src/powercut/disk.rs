//! ● A disk that forgets, seen through system calls: what it holds for certain, and what it may hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tape::SECTOR_BYTES;
use super::trace::{Event, Operation};

/// What the power cut does to one write or one change of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never reached the disk.
    Dropped,
    /// It did.
    Kept,
    /// Those of its sectors did. A name is kept if the first one is.
    Torn(Vec<bool>),
}

/// Something that is not certain yet, with the place of its event.
#[derive(Debug, Clone)]
struct Pending<T> {
    place: usize,
    change: T,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Debug, Clone)]
enum Naming {
    File(PathBuf, usize),
    Directory(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    certain: Vec<u8>,
    pending: Vec<Pending<Change>>,
}

/// A name stands for a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Directory,
}

#[derive(Debug, Clone, Default)]
struct Names(BTreeMap<PathBuf, Entry>);

/// The recorded directory, as programs see it and as the disk holds it.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    events: usize,
    inodes: Vec<Inode>,
    seen: Names,
    certain: Names,
    /// In the order in which they were made.
    naming: Vec<Pending<Naming>>,
}

impl Names {
    fn apply(&mut self, naming: &Naming) {
        match naming {
            Naming::File(path, inode) => {
                self.0.insert(path.clone(), Entry::File(*inode));
            }
            Naming::Directory(path) => {
                self.0.insert(path.clone(), Entry::Directory);
            }
            Naming::Rename(from, to) => {
                let moved: Vec<_> = self
                    .0
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in moved {
                    let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
                    let target = if rest.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(rest)
                    };
                    if let Some(entry) = self.0.remove(&path) {
                        self.0.insert(target, entry);
                    }
                }
            }
            Naming::Remove(path) => {
                self.0.remove(path);
            }
        }
    }

    fn inode(&self, path: &Path) -> Option<usize> {
        match self.0.get(path) {
            Some(Entry::File(inode)) => Some(*inode),
            _ => None,
        }
    }
}

impl Naming {
    /// The directory whose sync makes it certain.
    fn directory(&self) -> &Path {
        let (Self::File(path, _)
        | Self::Directory(path)
        | Self::Rename(_, path)
        | Self::Remove(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }
}

impl Disk {
    /// The next event of `all`.
    pub(super) fn apply(&mut self, event: &Event, all: &[Event]) {
        // Places are those in the whole log, left-out syncs included.
        let place = all
            .iter()
            .skip(self.events)
            .position(|other| std::ptr::eq(other, event));
        let place = self.events + place.unwrap_or(0);
        self.events = place + 1;
        match &event.operation {
            Operation::Open { path, cut } => match self.seen.inode(path) {
                None => {
                    self.inodes.push(Inode::default());
                    self.name(place, Naming::File(path.clone(), self.inodes.len() - 1));
                }
                Some(inode) if *cut => self.change(place, inode, Change::Truncate(0)),
                Some(_) => {}
            },
            Operation::Write { path, at, bytes } => {
                let change = Change::Write {
                    at: *at,
                    bytes: bytes.clone(),
                };
                if let Some(inode) = self.seen.inode(path) {
                    self.change(place, inode, change);
                }
            }
            Operation::Truncate { path, length } => {
                if let Some(inode) = self.seen.inode(path) {
                    self.change(place, inode, Change::Truncate(*length));
                }
            }
            Operation::Sync { path } => self.sync(path, event.began),
            Operation::Directory { path } => self.name(place, Naming::Directory(path.clone())),
            Operation::Rename { from, to } => {
                self.name(place, Naming::Rename(from.clone(), to.clone()));
            }
            Operation::Remove { path } => self.name(place, Naming::Remove(path.clone())),
            Operation::Say(_) => {}
        }
    }

    fn name(&mut self, place: usize, naming: Naming) {
        self.seen.apply(&naming);
        self.naming.push(Pending {
            place,
            change: naming,
        });
    }

    fn change(&mut self, place: usize, inode: usize, change: Change) {
        self.inodes[inode].pending.push(Pending { place, change });
    }

    /// Everything that was over when the sync began is certain.
    fn sync(&mut self, path: &Path, began: usize) {
        if let Some(inode) = self.seen.inode(path) {
            let inode = &mut self.inodes[inode];
            let later = inode
                .pending
                .iter()
                .position(|pending| pending.place >= began);
            let later = inode
                .pending
                .split_off(later.unwrap_or(inode.pending.len()));
            let now = std::mem::replace(&mut inode.pending, later);
            now.iter()
                .for_each(|pending| apply(&mut inode.certain, &pending.change, &Fate::Kept));
            return;
        }
        let (now, later) = std::mem::take(&mut self.naming)
            .into_iter()
            .partition(|naming| naming.change.directory() == path && naming.place < began);
        self.naming = later;
        let now: Vec<Pending<Naming>> = now;
        now.iter()
            .for_each(|pending| self.certain.apply(&pending.change));
    }

    /// Writes what the disk holds after the cut below `root`.
    pub(super) fn after_power_loss(
        &self,
        root: &Path,
        mut fate: impl FnMut(usize) -> Fate,
    ) -> std::io::Result<()> {
        let mut names = self.certain.clone();
        for naming in &self.naming {
            let kept = match fate(SECTOR_BYTES) {
                Fate::Dropped => false,
                Fate::Kept => true,
                Fate::Torn(sectors) => sectors.first() == Some(&true),
            };
            if kept {
                names.apply(&naming.change);
            }
        }
        for (path, entry) in &names.0 {
            let place = root.join(path);
            // A name in a directory that was lost is lost with it.
            if !place.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match entry {
                Entry::Directory => std::fs::create_dir(&place)?,
                Entry::File(inode) => {
                    let inode = &self.inodes[*inode];
                    let mut content = inode.certain.clone();
                    for pending in &inode.pending {
                        let bytes = match &pending.change {
                            Change::Write { bytes, .. } => bytes.len(),
                            Change::Truncate(_) => SECTOR_BYTES,
                        };
                        apply(&mut content, &pending.change, &fate(bytes));
                    }
                    std::fs::write(&place, content)?;
                }
            }
        }
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, change: &Change, fate: &Fate) {
    match (change, fate) {
        (_, Fate::Dropped) => {}
        (Change::Truncate(length), Fate::Kept) => content.resize(*length, 0),
        (Change::Truncate(length), Fate::Torn(sectors)) => {
            if sectors.first() == Some(&true) {
                content.resize(*length, 0);
            }
        }
        (Change::Write { at, bytes }, Fate::Kept) => write(content, *at, bytes),
        (Change::Write { at, bytes }, Fate::Torn(sectors)) => {
            for (sector, _) in sectors.iter().enumerate().filter(|(_, kept)| **kept) {
                let from = sector * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(bytes.len());
                write(content, at + from, &bytes[from..to]);
            }
        }
    }
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(began: usize, operation: Operation) -> Event {
        Event { began, operation }
    }

    fn left(events: &[Event], fate: Fate) -> BTreeMap<String, Vec<u8>> {
        let mut disk = Disk::default();
        events.iter().for_each(|event| disk.apply(event, events));
        let place = tempfile::tempdir().unwrap();
        disk.after_power_loss(place.path(), |_| fate.clone())
            .unwrap();
        let entries = std::fs::read_dir(place.path()).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn only_what_was_over_before_a_sync_began_is_certain() {
        let path = PathBuf::from("f");
        let write = |at, byte| Operation::Write {
            path: path.clone(),
            at,
            bytes: vec![byte; 512],
        };
        let events = [
            event(
                0,
                Operation::Open {
                    path: path.clone(),
                    cut: false,
                },
            ),
            event(1, write(0, 1)),
            // Began while the sync below was under way.
            event(2, write(512, 2)),
            event(2, Operation::Sync { path: path.clone() }),
        ];
        assert!(
            left(&events, Fate::Dropped).is_empty(),
            "its name was never synced"
        );
        let mut named = events.to_vec();
        named.push(event(
            4,
            Operation::Sync {
                path: PathBuf::new(),
            },
        ));
        assert_eq!(left(&named, Fate::Dropped)["f"], [1; 512]);
        assert_eq!(left(&named, Fate::Torn(vec![true]))["f"].len(), 1_024);
    }
}
