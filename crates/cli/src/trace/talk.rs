//! What frames seen earlier say about the next: titles, challenges, dedicated keys, blocks of a long APDU.

use std::collections::BTreeMap;

use serde_json::Value;
use zeroize::Zeroizing;

use super::keys::Keys;
use super::node::{Node, Shape};
use super::walk::Walk;

/// The two ends of one conversation, as far as its frames told.
#[derive(Default)]
pub(crate) struct Talk {
    pub(crate) client_title: Option<[u8; 8]>,
    pub(crate) server_title: Option<[u8; 8]>,
    pub(crate) dedicated_key: Option<Zeroizing<Vec<u8>>>,
    pub(crate) ctos: Option<Vec<u8>>,
    pub(crate) stoc: Option<Vec<u8>>,
    /// The authentication mechanism that was proposed or named last.
    pub(crate) mechanism: Option<u8>,
    /// The last ACTION was pass 3 of HLS: the answer to it is pass 4.
    pub(crate) hls_reply: bool,
    blocks: BTreeMap<(String, &'static str), BTreeMap<u32, Vec<u8>>>,
    /// Who sends to whom in the frame at hand.
    pub(crate) stream: String,
}

impl Talk {
    /// An AARQ begins an association.
    pub(crate) fn opened(&mut self) {
        self.dedicated_key = None;
        self.ctos = None;
        self.stoc = None;
        self.mechanism = None;
        self.hls_reply = false;
        self.blocks.clear();
    }

    pub(crate) fn title(&mut self, octets: &[u8], client: bool) {
        if let Ok(title) = octets.try_into() {
            let whose = if client {
                &mut self.client_title
            } else {
                &mut self.server_title
            };
            *whose = Some(title);
        }
    }

    pub(crate) fn dedicated(&mut self, octets: &[u8]) {
        self.dedicated_key = Some(Zeroizing::new(octets.to_vec()));
    }

    pub(crate) fn challenge(&mut self, octets: &[u8], client: bool) {
        let whose = if client {
            &mut self.ctos
        } else {
            &mut self.stoc
        };
        *whose = Some(octets.to_vec());
    }

    /// Takes one block of a long APDU or value; the whole, once its last block is there and none is missing.
    pub(crate) fn block(
        &mut self,
        service: &'static str,
        number: u32,
        last: bool,
        raw: &[u8],
        w: &mut Walk<'_>,
    ) -> Option<Vec<u8>> {
        let key = (self.stream.clone(), service);
        let blocks = self.blocks.entry(key.clone()).or_default();
        if number <= 1 {
            blocks.clear();
        }
        blocks.insert(number, raw.to_vec());
        if !last {
            return None;
        }
        let first = blocks.keys().next().copied().unwrap_or_default();
        let whole = first <= 1 && (first..=number).all(|number| blocks.contains_key(&number));
        let blocks = self.blocks.remove(&key).unwrap_or_default();
        if !whole {
            w.note("blocks before this one are not in this input");
            return None;
        }
        Some(blocks.into_values().flatten().collect())
    }
}

/// Octets that are not the frame's own: a plaintext, or an APDU joined from several frames.
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) octets: Zeroizing<Vec<u8>>,
    pub(crate) tree: Node,
}

impl Part {
    pub(crate) fn new(title: &'static str, octets: Vec<u8>, tree: Node) -> Self {
        Self {
            title,
            octets: Zeroizing::new(octets),
            tree,
        }
    }

    /// The octets in hex, keys and passwords crossed out.
    pub(crate) fn hex(&self) -> String {
        masked(&self.octets, &self.tree)
    }
}

/// Octets in hex, those of secrets in the tree crossed out.
pub(crate) fn masked(octets: &[u8], tree: &Node) -> String {
    let mut secret = vec![false; octets.len()];
    mark_secrets(tree, &mut secret);
    octets
        .iter()
        .zip(secret)
        .map(|(octet, secret)| {
            if secret {
                "xx".to_owned()
            } else {
                format!("{octet:02x}")
            }
        })
        .collect()
}

fn mark_secrets(node: &Node, secret: &mut [bool]) {
    if node.shape == Shape::Leaf && node.secret {
        let end = node.offset.saturating_add(node.len).min(secret.len());
        if let Some(range) = secret.get_mut(node.offset..end) {
            range.fill(true);
        }
    }
    for child in &node.children {
        mark_secrets(child, secret);
    }
}

/// What walking a frame's APDU needs, and what it learns.
pub(crate) struct Context<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) talk: &'a mut Talk,
    /// Of the outermost ciphered APDU.
    pub(crate) security: Option<Value>,
    /// Of the outermost ciphered APDU.
    pub(crate) plaintext: Option<Value>,
    pub(crate) parts: Vec<Part>,
    pub(crate) notes: Vec<String>,
    pub(crate) depth: usize,
}

impl<'a> Context<'a> {
    pub(crate) fn new(keys: &'a Keys, talk: &'a mut Talk) -> Self {
        Self {
            keys,
            talk,
            security: None,
            plaintext: None,
            parts: Vec::new(),
            notes: Vec::new(),
            depth: 0,
        }
    }
}
