//! Splits a stream into its documents, so that a syntax error spoils only one of them.

/// One document of a stream, not yet parsed. It has content: documents of nothing but comments are
/// left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// From its `---`, if it has one, to the next document.
    pub text: &'a str,
    /// 1-based line of `text`'s beginning.
    pub start: u32,
    /// 1-based line of the first content, where a person would look for the document.
    pub line: u32,
}

/// The documents of a YAML stream.
///
/// A line that starts with `---` or `...` ends a document wherever it stands, even inside quotes or
/// a block scalar (YAML 1.2.2 section 9.1.2), so no parsing is needed to find the boundaries.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut open = Open::default();
    let mut offset = 0;
    for (number, line) in (1..).zip(lines(text)) {
        let content = match marker(line) {
            Some(("---", rest)) => {
                open.close(text, offset, &mut documents);
                open = Open { offset, start: number, line: None };
                has_content(rest)
            }
            Some(_) => {
                open.close(text, offset, &mut documents);
                open = Open { offset: offset + line.len(), start: number + 1, line: None };
                false
            }
            // Directives (`%YAML 1.2`) say nothing an object could need.
            None if open.line.is_none() && line.starts_with('%') => {
                open = Open { offset: offset + line.len(), start: number + 1, line: None };
                false
            }
            None => has_content(line),
        };
        if content {
            open.line.get_or_insert(number);
        }
        offset += line.len();
    }
    open.close(text, text.len(), &mut documents);
    documents
}

/// The document being read.
struct Open {
    offset: usize,
    start: u32,
    line: Option<u32>,
}

impl Default for Open {
    fn default() -> Self {
        Self { offset: 0, start: 1, line: None }
    }
}

impl Open {
    fn close<'a>(&self, text: &'a str, end: usize, documents: &mut Vec<Document<'a>>) {
        if let Some(line) = self.line {
            documents.push(Document { text: &text[self.offset..end], start: self.start, line });
        }
    }
}

/// Lines with their endings: `\n`, `\r\n` or, as YAML has it, a lone `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let end = match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            Some(at) if bytes[at..].starts_with(b"\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

/// The document marker a line starts with, and what follows it.
fn marker(line: &str) -> Option<(&str, &str)> {
    let (marker, rest) = line.split_at_checked(3)?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    (matches!(marker, "---" | "...") && ends).then_some((marker, rest))
}

fn has_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(text: &str) -> Vec<(&str, u32, u32)> {
        split(text)
            .into_iter()
            .map(|document| (document.text, document.start, document.line))
            .collect()
    }

    #[test]
    fn documents_end_at_markers_and_know_their_lines() {
        assert_eq!(
            summary("a: 1\n---\n# note\n\nb: 2\n...\nc: 3"),
            [("a: 1\n", 1, 1), ("---\n# note\n\nb: 2\n", 2, 5), ("c: 3", 7, 7)]
        );
    }

    #[test]
    fn documents_without_content_are_left_out() {
        for text in ["", "\n\n", "# only\n# comments\n", "---\n---\n...\n", "%YAML 1.2\n--- # x\n"]
        {
            assert_eq!(summary(text), [], "{text:?}");
        }
    }

    #[test]
    fn directives_belong_to_no_document() {
        assert_eq!(summary("%TAG ! x\na: 1\n"), [("a: 1\n", 2, 2)]);
    }

    #[test]
    fn content_may_follow_the_marker_on_its_line() {
        assert_eq!(summary("--- {a: 1}\n"), [("--- {a: 1}\n", 1, 1)]);
    }

    #[test]
    fn a_pem_block_is_not_a_boundary() {
        let text = "a: |\n  -----BEGIN CERTIFICATE-----\n-----BEGIN\n";
        assert_eq!(summary(text), [(text, 1, 1)]);
    }

    #[test]
    fn every_line_ending_counts_one_line() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a: 1", "---", "b: 2", ""].join(end);
            let lines: Vec<u32> = split(&text).iter().map(|document| document.line).collect();
            assert_eq!(lines, [1, 3], "{end:?}");
        }
    }
}
