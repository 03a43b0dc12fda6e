//! Which of many prefixes a path begins with, without comparing it with each.
//!
//! The prefixes are sorted, so that one search finds the last that is not greater than the path. The
//! longest prefix of the path is that one or one of its own prefixes; these are linked, with short cuts,
//! so that a chain `/a`, `/aa`, `/aaa`, ... of any length is climbed in logarithmic time (skew-binary
//! jump pointers, Myers 1983).

/// The entry above all: no prefix.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct PrefixMap<V> {
    /// All prefixes, sorted, one after the other; what is compared last lies together.
    text: Box<str>,
    nodes: Box<[Node]>,
    values: Box<[V]>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    /// The longest proper prefix of this one.
    parent: u32,
    /// A prefix further up.
    jump: u32,
    depth: u32,
}

impl<V> PrefixMap<V> {
    /// Of distinct prefixes, in any order.
    pub(super) fn new(mut entries: Vec<(Box<str>, V)>) -> Self {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut text = String::new();
        let mut nodes: Vec<Node> = Vec::with_capacity(entries.len());
        let mut values = Vec::with_capacity(entries.len());
        // The prefixes of the entry at hand, the longest last.
        let mut open: Vec<u32> = Vec::new();
        for (index, (prefix, value)) in (0..).zip(entries) {
            let start = text.len() as u32;
            text.push_str(&prefix);
            while let Some(&last) = open.last() {
                let Node { start, end, .. } = nodes[last as usize];
                if prefix.starts_with(&text[start as usize..end as usize]) {
                    break;
                }
                open.pop();
            }
            let parent = open.last().copied().unwrap_or(NONE);
            nodes.push(link(&nodes, parent, start, text.len() as u32));
            open.push(index);
            values.push(value);
        }
        Self { text: text.into(), nodes: nodes.into(), values: values.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The longest prefix of `path`.
    pub(super) fn longest(&self, path: &str) -> Option<u32> {
        let after = self.nodes.partition_point(|node| self.prefix(node) <= path.as_bytes());
        let mut at = u32::try_from(after.checked_sub(1)?).ok()?;
        // Whatever of it the path does not begin with is too long.
        let common = common_length(self.prefix(&self.nodes[at as usize]), path.as_bytes());
        while at != NONE && self.length(at) > common {
            let Node { parent, jump, .. } = self.nodes[at as usize];
            at = if jump != NONE && self.length(jump) > common { jump } else { parent };
        }
        (at != NONE).then_some(at)
    }

    pub(super) fn value(&self, index: u32) -> &V {
        &self.values[index as usize]
    }

    /// The same prefixes with other values, each made of the old one and what its parent's became.
    pub(super) fn map<W>(self, mut make: impl FnMut(V, Option<(u32, &W)>) -> W) -> PrefixMap<W> {
        let mut made: Vec<W> = Vec::with_capacity(self.values.len());
        for (node, value) in self.nodes.iter().zip(self.values) {
            // Sorted: parents come before their children.
            let above = made.get(node.parent as usize).map(|value| (node.parent, value));
            let value = make(value, above);
            made.push(value);
        }
        PrefixMap { text: self.text, nodes: self.nodes, values: made.into() }
    }

    fn prefix(&self, node: &Node) -> &[u8] {
        &self.text.as_bytes()[node.start as usize..node.end as usize]
    }

    fn length(&self, index: u32) -> usize {
        let Node { start, end, .. } = self.nodes[index as usize];
        (end - start) as usize
    }
}

fn link(nodes: &[Node], parent: u32, start: u32, end: u32) -> Node {
    let Some(above) = nodes.get(parent as usize) else {
        return Node { start, end, parent: NONE, jump: NONE, depth: 0 };
    };
    // Two jumps of equal length from above become one.
    let jump = match nodes.get(above.jump as usize) {
        Some(first) if first.jump != NONE => {
            let second = &nodes[first.jump as usize];
            if above.depth - first.depth == first.depth - second.depth {
                first.jump
            } else {
                parent
            }
        }
        _ => parent,
    };
    Node { start, end, parent, jump, depth: above.depth + 1 }
}

fn common_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(prefixes: &[&str]) -> PrefixMap<String> {
        PrefixMap::new(
            prefixes.iter().map(|prefix| ((*prefix).into(), (*prefix).to_owned())).collect(),
        )
    }

    fn chain(map: &PrefixMap<String>, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut at = map.longest(path);
        while let Some(index) = at {
            found.push(map.value(index).clone());
            at = Some(map.nodes[index as usize].parent).filter(|parent| *parent != NONE);
        }
        found
    }

    #[test]
    fn the_prefixes_of_a_path_are_found_longest_first() {
        let map = map(&["/", "/a", "/a/b", "/a/bc", "/ab", "", "/z/y/x"]);
        assert_eq!(chain(&map, "/a/bcd"), ["/a/bc", "/a/b", "/a", "/", ""]);
        assert_eq!(chain(&map, "/a/b"), ["/a/b", "/a", "/", ""]);
        assert_eq!(chain(&map, "/a/"), ["/a", "/", ""]);
        assert_eq!(chain(&map, "/z/y"), ["/", ""]);
        assert_eq!(chain(&map, "*"), [""]);
        assert_eq!(chain(&self::map(&["/b"]), "/a"), Vec::<String>::new());
        assert_eq!(chain(&self::map(&[]), "/a"), Vec::<String>::new());
    }

    #[test]
    fn random_prefixes_are_found_as_by_trying_all() {
        let mut rng = fastrand::Rng::with_seed(11);
        for case in 0..2_000 {
            let mut random = |max: usize| -> String {
                (0..rng.usize(0..=max)).map(|_| ['/', 'a', 'b'][rng.usize(0..3)]).collect()
            };
            let mut prefixes: Vec<String> = (0..30).map(|_| random(8)).collect();
            prefixes.sort();
            prefixes.dedup();
            let texts: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let map = map(&texts);
            for _ in 0..20 {
                let path = random(12);
                let mut expected: Vec<_> = prefixes
                    .iter()
                    .filter(|prefix| path.starts_with(&***prefix))
                    .cloned()
                    .collect();
                expected.reverse();
                assert_eq!(chain(&map, &path), expected, "case {case}: {path} in {prefixes:?}");
            }
        }
    }

    #[test]
    fn a_long_chain_is_climbed_in_few_steps() {
        let longest = "a".repeat(10_000);
        let prefixes: Vec<&str> = (0..=longest.len()).map(|end| &longest[..end]).collect();
        let map = map(&prefixes);
        let path = format!("{}b", "a".repeat(17));
        assert_eq!(map.value(map.longest(&path).unwrap()).len(), 17);
        // From the far end of the chain to any place in it.
        for target in [0, 1, 17, 4_999, 9_998] {
            let mut at = 10_000;
            let mut steps = 0;
            while map.length(at) > target {
                let Node { parent, jump, .. } = map.nodes[at as usize];
                at = if jump != NONE && map.length(jump) > target { jump } else { parent };
                steps += 1;
            }
            assert!(steps < 64, "{steps} steps to {target}");
        }
    }
}
