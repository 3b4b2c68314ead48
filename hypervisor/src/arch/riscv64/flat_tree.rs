//! Reads single properties of a flattened device tree: what the firmware tells of the machine.
//!
//! Reference: Devicetree Specification, "Flattened Devicetree (DTB) Format". The numbers in it are checked like any others:
//! a tree that is cut off or makes no sense has no properties.

/// Magic number of the header.
const MAGIC: u32 = 0xd00d_feed;

// Tokens of the structure block.
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 40;

/// A flattened device tree.
#[derive(Clone, Copy, Debug)]
pub struct FlatTree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// Length in bytes of the tree with this header, if it is one.
#[must_use]
pub fn total_size(header: &[u8]) -> Option<usize> {
    (word(header, 0)? == MAGIC).then_some(word(header, 4)? as usize)
}

impl<'a> FlatTree<'a> {
    /// The tree in `blob`, if there is one.
    #[must_use]
    pub fn new(blob: &'a [u8]) -> Option<Self> {
        let blob = blob.get(..total_size(blob)?)?;
        Some(Self {
            structure: blob.get(word(blob, 8)? as usize..)?,
            strings: blob.get(word(blob, 12)? as usize..)?,
        })
    }

    /// Property `name` of the first node at `path`, which has the names of nodes below the root. A name stands for
    /// itself with any unit address.
    #[must_use]
    pub fn property(&self, path: &[&str], name: &str) -> Option<&'a [u8]> {
        let mut at = 0;
        // How deep the node at hand is, the root being 1, and how many nodes from the root on are those of the path.
        let (mut depth, mut matched) = (0_usize, 0_usize);
        loop {
            let token = word(self.structure, at)?;
            at = at.checked_add(4)?;
            match token {
                BEGIN_NODE => {
                    let found = text(self.structure.get(at..)?)?;
                    at = at.checked_add(found.len() + 1)?.checked_next_multiple_of(4)?;
                    let wanted = match depth {
                        0 => Some(&""),
                        _ => path.get(depth - 1),
                    };
                    if matched == depth && wanted.is_some_and(|wanted| is_named(found, wanted)) {
                        matched += 1;
                    }
                    depth += 1;
                }
                END_NODE => {
                    depth = depth.checked_sub(1)?;
                    matched = matched.min(depth);
                }
                PROPERTY => {
                    let (length, name_at) =
                        (word(self.structure, at)?, word(self.structure, at.checked_add(4)?)?);
                    at = at.checked_add(8)?;
                    let end = at.checked_add(length as usize)?;
                    let value = self.structure.get(at..end)?;
                    at = end.checked_next_multiple_of(4)?;
                    let here = depth == matched && depth == path.len() + 1;
                    if here && text(self.strings.get(name_at as usize..)?)? == name.as_bytes() {
                        return Some(value);
                    }
                }
                NOP => {}
                _ => return None,
            }
        }
    }

    /// The same, as a number of 32 bits.
    #[must_use]
    pub fn number(&self, path: &[&str], name: &str) -> Option<u32> {
        word(self.property(path, name)?, 0)
    }

    /// The same, as a text.
    #[must_use]
    pub fn text(&self, path: &[&str], name: &str) -> Option<&'a str> {
        core::str::from_utf8(text(self.property(path, name)?)?).ok()
    }
}

fn is_named(found: &[u8], wanted: &str) -> bool {
    match found.strip_prefix(wanted.as_bytes()) {
        Some([]) => true,
        Some([b'@', ..]) => !wanted.is_empty(),
        _ => false,
    }
}

/// The bytes before the first NUL.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
