//! A TOML document as a tree that remembers where each entry was made. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::faults::{Fault, LocatedFault, Origin};

/// Tables in tables beyond this are refused, for environment overrides as well.
const DEPTH_MAX: usize = 16;

/// One step of a key: a name or a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// An entry and where it was made.
#[derive(Debug, Clone)]
struct Node {
    origin: Origin,
    /// Stands in for a value that was missing or taken out; what is said about it means nothing.
    stand_in: bool,
    /// An override as it was written, kept while it may still turn out to be meant as text.
    raw: Option<String>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    Leaf(Value),
}

/// The whole document.
#[derive(Debug, Clone)]
pub(super) struct Document {
    root: Node,
}

impl Document {
    /// Reads as much as can be read; each syntax error is a fault with its line.
    pub(super) fn parse(text: &str) -> (Self, Vec<LocatedFault>) {
        let lines = Lines::of(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        let faults = errors.iter().map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let fault = Fault::new("", format!("not valid TOML: {}", error.message().trim()));
            LocatedFault {
                origin: lines.origin(at),
                fault,
            }
        });
        let faults = faults.collect();
        let body = Body::Table(table_of(table.into_inner(), &lines));
        (
            Self {
                root: Node::new(Origin::Default, body),
            },
            faults,
        )
    }

    /// Puts `PREFIX__A__B=value` in the place of `a.b`.
    pub(super) fn override_from(
        &mut self,
        prefix: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        faults: &mut Vec<LocatedFault>,
    ) {
        // In the order of names: a table before the entries within it.
        let mut variables: Vec<_> = environment
            .into_iter()
            .filter_map(|(name, value)| {
                let keys = name
                    .strip_prefix(prefix)?
                    .strip_prefix("__")?
                    .to_lowercase();
                Some((name, keys, value))
            })
            .collect();
        variables.sort();
        for (name, keys, value) in variables {
            let path: Vec<&str> = keys.split("__").collect();
            if path.len() > DEPTH_MAX || path.iter().any(|key| key.is_empty()) {
                let problem = format!("names no setting: write {prefix}__TABLE__KEY");
                let fault = Fault::new("", problem);
                faults.push(LocatedFault {
                    origin: Origin::Variable(name),
                    fault,
                });
                continue;
            }
            self.root.set(&path, Node::from_variable(name, value));
        }
    }

    /// The document as a plain value, for serde.
    pub(super) fn to_value(&self) -> Value {
        self.root.to_value()
    }

    /// Gives a fault the place where its key, or the nearest table around it, was made.
    pub(super) fn locate(&self, fault: Fault) -> LocatedFault {
        LocatedFault {
            origin: self.origin(&steps(&fault.key)),
            fault,
        }
    }

    /// Where the entry at `path` was made; a default when it was not made.
    pub(super) fn origin(&self, path: &[Step]) -> Origin {
        self.node(path)
            .map_or(Origin::Default, |node| node.origin.clone())
    }

    /// Where the innermost existing entry on the way to `path` was made.
    pub(super) fn origin_around(&self, path: &[Step]) -> Origin {
        let ends = (0..=path.len()).rev();
        ends.filter_map(|end| self.node(&path[..end]))
            .map(|node| node.origin.clone())
            .next()
            .unwrap_or(Origin::Default)
    }

    /// The scalar at `path` as TOML text, to be quoted in a fault.
    pub(super) fn scalar(&self, path: &[Step]) -> Option<String> {
        match &self.node(path)?.body {
            Body::Leaf(value) => Some(value.to_string()),
            Body::Table(_) | Body::Array(_) => None,
        }
    }

    /// Whether something on the way to the dotted `key` stands in for a value that was at fault.
    pub(super) fn is_stand_in(&self, key: &str) -> bool {
        let path = steps(key);
        (0..=path.len())
            .filter_map(|end| self.node(&path[..end]))
            .any(|node| node.stand_in)
    }

    /// Takes an override that was read as TOML for text instead; whether there was one.
    pub(super) fn reread_as_text(&mut self, path: &[Step]) -> bool {
        let Some(node) = self.node_mut(path) else {
            return false;
        };
        let Some(raw) = node.raw.take() else {
            return false;
        };
        node.body = Body::Leaf(Value::String(raw));
        true
    }

    /// Puts a stand-in at `path`, whose parent must exist; whether it could.
    pub(super) fn stand_in(&mut self, path: &[Step], value: Value) -> bool {
        let origin = self.origin(path);
        let node = Node {
            stand_in: true,
            ..Node::from_value(value, &origin)
        };
        let Some((last, parents)) = path.split_last() else {
            return false;
        };
        let Some(parent) = self.node_mut(parents) else {
            return false;
        };
        match (&mut parent.body, last) {
            (Body::Table(table), Step::Key(key)) => {
                table.insert(key.clone(), node);
                true
            }
            (Body::Array(array), Step::Index(index)) if *index < array.len() => {
                array[*index] = node;
                true
            }
            _ => false,
        }
    }

    /// Takes out the entry at `path`; whether there was one.
    pub(super) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((Step::Key(key), parents)) = path.split_last() else {
            return false;
        };
        match self.node_mut(parents).map(|parent| &mut parent.body) {
            Some(Body::Table(table)) => table.remove(key).is_some(),
            _ => false,
        }
    }

    fn node(&self, path: &[Step]) -> Option<&Node> {
        path.iter()
            .try_fold(&self.root, |node, step| match (&node.body, step) {
                (Body::Table(table), Step::Key(key)) => table.get(key),
                (Body::Array(array), Step::Index(index)) => array.get(*index),
                _ => None,
            })
    }

    fn node_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter()
            .try_fold(&mut self.root, |node, step| match (&mut node.body, step) {
                (Body::Table(table), Step::Key(key)) => table.get_mut(key),
                (Body::Array(array), Step::Index(index)) => array.get_mut(*index),
                _ => None,
            })
    }
}

impl Node {
    fn new(origin: Origin, body: Body) -> Self {
        Self {
            origin,
            stand_in: false,
            raw: None,
            body,
        }
    }

    fn from_variable(name: String, text: String) -> Self {
        let origin = Origin::Variable(name);
        let parsed: Option<toml::Table> = toml::from_str(&format!("value = {text}")).ok();
        // Exactly one entry: a text with line breaks cannot smuggle in others.
        let parsed = parsed
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        match parsed {
            Some(value) => {
                let raw = (!value.is_str()).then_some(text);
                Self {
                    raw,
                    ..Self::from_value(value, &origin)
                }
            }
            None => Self::new(origin, Body::Leaf(Value::String(text))),
        }
    }

    fn from_value(value: Value, origin: &Origin) -> Self {
        let body = match value {
            Value::Table(table) => Body::Table(
                table
                    .into_iter()
                    .map(|(key, value)| (key, Self::from_value(value, origin)))
                    .collect(),
            ),
            Value::Array(array) => Body::Array(
                array
                    .into_iter()
                    .map(|value| Self::from_value(value, origin))
                    .collect(),
            ),
            leaf => Body::Leaf(leaf),
        };
        Self::new(origin.clone(), body)
    }

    /// Puts `node` at `path`, making tables on the way and replacing what is no table.
    fn set(&mut self, path: &[&str], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.body, Body::Table(_)) {
            *self = Self::new(node.origin.clone(), Body::Table(BTreeMap::new()));
        }
        if let Body::Table(table) = &mut self.body {
            let fresh = || Self::new(node.origin.clone(), Body::Table(BTreeMap::new()));
            table
                .entry((*key).to_owned())
                .or_insert_with(fresh)
                .set(rest, node);
        }
    }

    fn to_value(&self) -> Value {
        match &self.body {
            Body::Table(table) => Value::Table(
                table
                    .iter()
                    .map(|(key, node)| (key.clone(), node.to_value()))
                    .collect(),
            ),
            Body::Array(array) => Value::Array(array.iter().map(Self::to_value).collect()),
            Body::Leaf(value) => value.clone(),
        }
    }
}

/// `listen[1].port` as steps.
fn steps(key: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in key.split('.') {
        let mut pieces = part.split('[');
        path.extend(
            pieces
                .next()
                .filter(|name| !name.is_empty())
                .map(|name| Step::Key(name.to_owned())),
        );
        path.extend(
            pieces
                .filter_map(|index| index.strip_suffix(']')?.parse().ok())
                .map(Step::Index),
        );
    }
    path
}

fn table_of(table: DeTable<'_>, lines: &Lines) -> BTreeMap<String, Node> {
    let entries = table.into_iter().map(|(key, value)| {
        let at = key.span().start;
        let node = node_of(value, lines.origin(at), lines);
        (key.into_inner().into_owned(), node)
    });
    entries.collect()
}

fn node_of(value: Spanned<DeValue<'_>>, origin: Origin, lines: &Lines) -> Node {
    let body = match value.into_inner() {
        DeValue::Table(table) => Body::Table(table_of(table, lines)),
        DeValue::Array(array) => Body::Array(
            array
                .into_iter()
                .map(|element| {
                    let span: Range<usize> = element.span();
                    node_of(element, lines.origin(span.start), lines)
                })
                .collect(),
        ),
        DeValue::String(text) => Body::Leaf(Value::String(text.into_owned())),
        DeValue::Boolean(truth) => Body::Leaf(Value::Boolean(truth)),
        DeValue::Datetime(time) => Body::Leaf(Value::Datetime(time)),
        // A number beyond 64 bits stays text, so that serde's complaint shows it as it is written.
        DeValue::Integer(number) => Body::Leaf(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::String(number.to_string()), Value::Integer),
        ),
        DeValue::Float(number) => Body::Leaf(
            number
                .as_str()
                .parse()
                .map_or_else(|_| Value::String(number.to_string()), Value::Float),
        ),
    };
    Node::new(origin, body)
}

/// Where the lines of a text begin.
struct Lines {
    begins: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            begins: std::iter::once(0)
                .chain(breaks.map(|(at, _)| at + 1))
                .collect(),
        }
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::Line(self.begins.partition_point(|begin| *begin <= at))
    }
}
