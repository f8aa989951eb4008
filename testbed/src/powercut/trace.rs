//! ● The log of `strace -f -y -xx` as a list of what happened to the files of one directory.
//!
//! A call that other threads interrupt stands in the log as two lines. A write counts from its end.
//! A sync covers what was written before its beginning, and is believed from its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The calls that the model of the disk knows.
pub(super) const SYSTEM_CALLS: &str = "open,openat,creat,pwrite64,write,fsync,fdatasync,ftruncate,rename,\
renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,sync_file_range";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// How many events were over when it began.
    pub(super) began: usize,
    /// What it was.
    pub(super) operation: Operation,
}

/// What can happen. Paths are relative to the recorded directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// A file is there, empty when it was not or when it was cut.
    Open {
        path: PathBuf,
        cut: bool,
    },
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    /// Of a file: its content. Of a directory: its names.
    Sync {
        path: PathBuf,
    },
    Directory {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    /// A line on standard output.
    Say(String),
}

impl Operation {
    /// The file that it is about.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Open { path, .. }
            | Self::Write { path, .. }
            | Self::Truncate { path, .. }
            | Self::Sync { path }
            | Self::Directory { path }
            | Self::Rename { to: path, .. }
            | Self::Remove { path } => Some(path),
            Self::Say(_) => None,
        }
    }
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Text(Vec<u8>),
    /// A number with the path that strace knows for it.
    Descriptor(i64, PathBuf),
    Word(String),
}

/// Reads a log.
pub(super) fn read(log: &str, root: &Path) -> Vec<Event> {
    let mut reader = Reader {
        root,
        events: Vec::new(),
        begun: BTreeMap::new(),
        positions: BTreeMap::new(),
    };
    log.lines().for_each(|line| reader.line(line));
    reader.events
}

struct Reader<'a> {
    root: &'a Path,
    events: Vec<Event>,
    /// Per thread: the first half of its line, and how many events were over.
    begun: BTreeMap<String, (String, usize)>,
    /// Where the next plain `write` to a descriptor goes.
    positions: BTreeMap<i64, usize>,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) {
        let Some((thread, call)) = line.split_once(' ') else {
            return;
        };
        let (thread, call) = (thread.to_owned(), call.trim_start());
        if let Some(first) = call.strip_suffix(" <unfinished ...>") {
            let over = self.events.len();
            self.begun_mut(&thread, Some((first.to_owned(), over)));
        } else if let Some((_, rest)) = call
            .strip_prefix("<... ")
            .and_then(|c| c.split_once(" resumed>"))
        {
            if let Some((first, began)) = self.begun_mut(&thread, None) {
                self.call(&format!("{first}{rest}"), began);
            }
        } else {
            self.call(call, self.events.len());
        }
    }

    fn call(&mut self, call: &str, began: usize) {
        let Some((name, rest)) = call.split_once('(') else {
            return;
        };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else {
            return;
        };
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let arguments = split(arguments.trim_end().trim_end_matches(')'));
        if let Some(operation) = self.operation(name, &arguments, result) {
            self.events.push(Event { began, operation });
        }
    }

    fn operation(&mut self, name: &str, arguments: &[Argument], result: &str) -> Option<Operation> {
        use Argument::{Descriptor, Text, Word};
        let paths: Vec<_> = arguments
            .iter()
            .filter_map(|argument| match argument {
                Text(text) => Some(PathBuf::from(String::from_utf8(text.clone()).ok()?)),
                _ => None,
            })
            .collect();
        let flags = arguments.iter().find_map(|argument| match argument {
            Word(word) if word.contains("O_") => Some(word.as_str()),
            _ => None,
        });
        match (name, arguments) {
            ("open" | "openat" | "creat", _) => {
                let Argument::Descriptor(descriptor, _) = argument(result) else {
                    return None;
                };
                self.positions.insert(descriptor, 0);
                let flags = flags.unwrap_or("O_CREAT|O_TRUNC");
                let path = self.inside(paths.first()?)?;
                let cut = flags.contains("O_TRUNC");
                (cut || flags.contains("O_CREAT")).then_some(Operation::Open { path, cut })
            }
            ("pwrite64", [Descriptor(_, path), Text(bytes), _, Word(at)]) => {
                Some(Operation::Write {
                    path: self.inside(path)?,
                    at: at.parse().ok()?,
                    bytes: bytes[..result.parse().ok()?].to_vec(),
                })
            }
            ("write", [Descriptor(1, _), Text(bytes), _]) => {
                Some(Operation::Say(String::from_utf8(bytes.clone()).ok()?))
            }
            ("write", [Descriptor(descriptor, path), Text(bytes), _]) => {
                let path = self.inside(path)?;
                let bytes = bytes[..result.parse().ok()?].to_vec();
                let position = self.positions.entry(*descriptor).or_default();
                let at = *position;
                *position += bytes.len();
                Some(Operation::Write { path, at, bytes })
            }
            ("fsync" | "fdatasync", [Descriptor(_, path)]) => Some(Operation::Sync {
                path: self.inside(path)?,
            }),
            ("ftruncate", [Descriptor(_, path), Word(length)]) => Some(Operation::Truncate {
                path: self.inside(path)?,
                length: length.parse().ok()?,
            }),
            ("rename" | "renameat" | "renameat2", _) => Some(Operation::Rename {
                from: self.inside(paths.first()?)?,
                to: self.inside(paths.get(1)?)?,
            }),
            ("unlink" | "unlinkat" | "rmdir", _) => Some(Operation::Remove {
                path: self.inside(paths.first()?)?,
            }),
            ("mkdir" | "mkdirat", _) => Some(Operation::Directory {
                path: self.inside(paths.first()?)?,
            }),
            _ => None,
        }
    }

    /// The path within the recorded directory; the directory itself is the empty path.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(self.root).ok().map(Path::to_path_buf)
    }

    fn begun_mut(
        &mut self,
        thread: &str,
        begin: Option<(String, usize)>,
    ) -> Option<(String, usize)> {
        let before = self.begun.remove(thread);
        if let Some(begin) = begin {
            self.begun.insert(thread.to_owned(), begin);
        }
        before
    }
}

/// Splits at commas outside of quotes and angle brackets; hexadecimal texts contain neither.
fn split(arguments: &str) -> Vec<Argument> {
    arguments.split(", ").map(argument).collect()
}

fn argument(text: &str) -> Argument {
    if let Some(inside) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    {
        return Argument::Text(unhex(inside));
    }
    let descriptor = text.split_once('<').and_then(|(number, rest)| {
        let path = String::from_utf8(unhex(rest.strip_suffix('>')?)).ok()?;
        Some(Argument::Descriptor(number.parse().ok()?, path.into()))
    });
    descriptor.unwrap_or_else(|| Argument::Word(text.to_owned()))
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x")
        .skip(1)
        .filter_map(|byte| u8::from_str_radix(byte.get(..2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_put_together_and_other_places_are_left_out() {
        let hex = |text: &str| {
            text.bytes()
                .map(|byte| format!("\\x{byte:02x}"))
                .collect::<String>()
        };
        let (db, other) = (hex("/r/store/db"), hex("/elsewhere"));
        let log = [
            format!(
                "7 openat(AT_FDCWD<{other}>, \"{db}\", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 4<{db}>"
            ),
            format!("7 pwrite64(4<{db}>, \"{}\", 3, 512) = 2", hex("abc")),
            format!("8 fdatasync(4<{db}> <unfinished ...>"),
            format!("7 write(1</dev/null>, \"{}\", 5) = 5", hex("said\n")),
            format!("7 write(9<{other}>, \"{}\", 1) = 1", hex("x")),
            "8 <... fdatasync resumed>) = 0".to_owned(),
            format!("7 fsync(4<{db}>) = -1 EIO (Input/output error)"),
        ];
        let path = PathBuf::from("store/db");
        let expected = [
            Event {
                began: 0,
                operation: Operation::Open {
                    path: path.clone(),
                    cut: false,
                },
            },
            Event {
                began: 1,
                operation: Operation::Write {
                    path: path.clone(),
                    at: 512,
                    bytes: b"ab".to_vec(),
                },
            },
            Event {
                began: 2,
                operation: Operation::Say("said\n".to_owned()),
            },
            Event {
                began: 2,
                operation: Operation::Sync { path },
            },
        ];
        assert_eq!(read(&log.join("\n"), Path::new("/r")), expected);
    }
}
