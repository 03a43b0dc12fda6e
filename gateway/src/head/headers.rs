//! The fields of a head, in the order they came.

use std::{ops::Index, slice, vec};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields: names in lower case, values as received, several of one name allowed.
///
/// A list, not a hash table. A head has a dozen fields and is read for about as many names; to compare
/// them costs less than to hash them, and the whole is one allocation. The limit on the number of
/// fields bounds the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

/// There are several fields of a name that allows one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

/// What a field can be looked up by.
pub trait Name {
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Name for &HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        *self == name
    }
}

/// In lower case.
impl Name for &str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str() == *self
    }
}

impl Headers {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> slice::Iter<'_, (HeaderName, HeaderValue)> {
        self.0.iter()
    }

    /// The first of that name.
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// All of that name, in their order.
    pub fn get_all<N: Name>(&self, name: N) -> Values<'_, N> {
        Values { name, fields: self.0.iter() }
    }

    /// The value where there may be only one.
    ///
    /// # Errors
    /// There are several.
    pub fn only(&self, name: impl Name) -> Result<Option<&HeaderValue>, Repeated> {
        let mut values = self.get_all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Repeated),
            (value, None) => Ok(value),
        }
    }

    pub fn contains_key(&self, name: impl Name) -> bool {
        self.0.iter().any(|(present, _)| name.is(present))
    }

    /// One field of that name, where the first of them was, else at the end.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(first) = self.0.iter().position(|(present, _)| *present == name) else {
            self.0.push((name, value));
            return;
        };
        self.0[first].1 = value;
        if self.0[first + 1..].iter().any(|(present, _)| *present == name) {
            let mut at = 0;
            self.0.retain(|(present, _)| {
                at += 1;
                at <= first + 1 || *present != name
            });
        }
    }

    /// Another field, whatever else of that name there is.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// A field, unless there is one of that name.
    pub fn insert_if_absent(&mut self, name: HeaderName, value: impl FnOnce() -> HeaderValue) {
        if !self.contains_key(&name) {
            self.0.push((name, value()));
        }
    }

    /// Removes all of that name; the first of them.
    pub fn remove(&mut self, name: impl Name) -> Option<HeaderValue> {
        let first = self.0.iter().position(|(present, _)| name.is(present))?;
        let (_, value) = self.0.remove(first);
        self.0.retain(|(present, _)| !name.is(present));
        Some(value)
    }

    /// As `insert`, of text.
    ///
    /// # Errors
    /// Not a field's name, or not a field's value.
    pub fn try_insert<N, V>(&mut self, name: N, value: V) -> Result<(), http::Error>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        self.insert(name.try_into().map_err(Into::into)?, value.try_into().map_err(Into::into)?);
        Ok(())
    }

    /// As `append`, of text.
    ///
    /// # Errors
    /// Not a field's name, or not a field's value.
    pub fn try_append<N, V>(&mut self, name: N, value: V) -> Result<(), http::Error>
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        self.append(name.try_into().map_err(Into::into)?, value.try_into().map_err(Into::into)?);
        Ok(())
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// One for each field: a name can come several times.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }
}

/// The values of one name.
#[derive(Debug, Clone)]
pub struct Values<'a, N> {
    name: N,
    fields: slice::Iter<'a, (HeaderName, HeaderValue)>,
}

impl<'a, N: Name> Iterator for Values<'a, N> {
    type Item = &'a HeaderValue;

    fn next(&mut self) -> Option<&'a HeaderValue> {
        let Self { name, fields } = self;
        fields.find(|(present, _)| name.is(present)).map(|(_, value)| value)
    }
}

impl<'a, N: Name> DoubleEndedIterator for Values<'a, N> {
    fn next_back(&mut self) -> Option<&'a HeaderValue> {
        let Self { name, fields } = self;
        fields.rfind(|(present, _)| name.is(present)).map(|(_, value)| value)
    }
}

/// # Panics
/// Where there is no field of that name.
impl<N: Name> Index<N> for Headers {
    type Output = HeaderValue;

    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).expect("a field of that name")
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a (HeaderName, HeaderValue);
    type IntoIter = slice::Iter<'a, (HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len() + super::ADDED_FIELDS);
        let mut current = None;
        for (name, value) in map {
            // The iterator names a field once and then gives its further values without the name.
            current = name.or(current);
            if let Some(name) = &current {
                fields.append(name.clone(), value);
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, COOKIE, HOST};

    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> Headers {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(field).collect()
    }

    const SEVERAL: [(&str, &str); 5] =
        [("cookie", "a"), ("host", "h"), ("cookie", "b"), ("x-a", "1"), ("cookie", "c")];

    #[test]
    fn all_values_of_a_name_are_found_in_their_order() {
        let fields = fields(&SEVERAL);
        assert_eq!(fields.get(COOKIE).unwrap(), "a");
        assert_eq!(fields.get_all(&COOKIE).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(fields.get_all("cookie").rev().collect::<Vec<_>>(), ["c", "b", "a"]);
        assert_eq!(fields.get("x-a").unwrap(), "1");
        assert_eq!(fields.only(HOST).unwrap().unwrap(), "h");
        assert_eq!(fields.only(COOKIE), Err(Repeated));
        assert_eq!(fields.only(ACCEPT), Ok(None));
        assert!(fields.get(ACCEPT).is_none() && !fields.contains_key(ACCEPT));
    }

    #[test]
    fn an_inserted_value_is_the_only_one_of_its_name() {
        let mut several = fields(&SEVERAL);
        several.insert(COOKIE, HeaderValue::from_static("d"));
        assert_eq!(several, fields(&[("cookie", "d"), ("host", "h"), ("x-a", "1")]));
        several.insert(ACCEPT, HeaderValue::from_static("e"));
        assert_eq!(
            several,
            fields(&[("cookie", "d"), ("host", "h"), ("x-a", "1"), ("accept", "e")])
        );
    }

    #[test]
    fn what_is_removed_is_gone_with_all_its_values() {
        let mut several = fields(&SEVERAL);
        assert_eq!(several.remove(COOKIE).unwrap(), "a");
        assert_eq!(several, fields(&[("host", "h"), ("x-a", "1")]));
        assert_eq!(several.remove(COOKIE), None);
        several.append(HOST, HeaderValue::from_static("i"));
        several.retain(|name, _| name != "x-a");
        assert_eq!(several, fields(&[("host", "h"), ("host", "i")]));
    }

    #[test]
    fn nothing_of_a_map_is_lost() {
        let mut map = HeaderMap::new();
        for (name, value) in fields(&SEVERAL) {
            map.append(name, value);
        }
        let fields = Headers::from(map);
        assert_eq!(fields.get_all(COOKIE).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(fields.len(), SEVERAL.len());
    }
}
