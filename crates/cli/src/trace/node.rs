//! The tree of a frame: every octet in one leaf, every leaf with its meaning.

use serde_json::{Map, Value};

/// What a node is in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Octets with a value.
    Leaf,
    /// An object of its children.
    Group,
    /// An array of its children.
    List,
}

/// A field, or a group of them.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The standard's term.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// A leaf's value; a group's `type`.
    pub(crate) value: Value,
    /// The meaning, for people.
    pub(crate) text: String,
    /// More members for the object it stands in.
    pub(crate) extra: Vec<(&'static str, Value)>,
    /// Tags, lengths and usage flags are for people only.
    pub(crate) in_json: bool,
    /// A password or a key: its octets are not shown.
    pub(crate) secret: bool,
    pub(crate) children: Vec<Self>,
}

impl Node {
    pub(crate) fn new(name: &'static str, shape: Shape, offset: usize) -> Self {
        Self {
            name,
            shape,
            offset,
            len: 0,
            value: Value::Null,
            text: String::new(),
            extra: Vec::new(),
            in_json: true,
            secret: false,
            children: Vec::new(),
        }
    }

    /// The decoded tree for programs.
    pub(crate) fn json(&self) -> Value {
        let shown = self.children.iter().filter(|child| child.in_json);
        match self.shape {
            Shape::Leaf => self.value.clone(),
            Shape::List => shown.map(Self::json).collect(),
            Shape::Group => {
                let mut object = Map::new();
                if !self.value.is_null() {
                    object.insert("type".to_owned(), self.value.clone());
                }
                for child in shown {
                    insert(&mut object, child.name, child.json());
                }
                for child in &self.children {
                    for (name, value) in &child.extra {
                        insert(&mut object, name, value.clone());
                    }
                }
                Value::Object(object)
            }
        }
    }

    /// The first node of this name, depth first.
    pub(crate) fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

/// A name that comes twice becomes an array: nothing is lost.
fn insert(object: &mut Map<String, Value>, name: &str, value: Value) {
    let key = name.replace(['-', ' '], "_").to_lowercase();
    match object.get_mut(&key) {
        None => drop(object.insert(key, value)),
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}
