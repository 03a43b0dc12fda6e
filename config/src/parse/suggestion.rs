//! "Did you mean": the known field a misspelt one is nearest to.

/// The field a misspelt key was probably meant to be.
pub(super) fn nearest<'f>(key: &str, fields: &[&'f str]) -> Option<&'f str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let written = plain(key);
    let distance = |field: &&&str| edit_distance(&written, &plain(field));
    let best = fields.iter().min_by_key(distance)?;
    (distance(&best) <= written.len() / 4).then_some(*best)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let far = a.len().max(b.len());
    // Field names are short; a huge key is not worth a table of its size.
    if far > 64 {
        return far;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    rows[i - 2][j - 2] + 1
                } else {
                    far
                };
                replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(swapped)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_another_spelling_finds_its_field() {
        let fields = ["timeout", "retries", "perTryTimeout", "uri"];
        assert_eq!(nearest("timeuot", &fields), Some("timeout"));
        assert_eq!(nearest("per_try_timeout", &fields), Some("perTryTimeout"));
        assert_eq!(nearest("PerTryTimeOut", &fields), Some("perTryTimeout"));
        assert_eq!(nearest("url", &fields), None);
        assert_eq!(nearest("completelyDifferent", &fields), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), &fields), None);
    }
}
