//! Users and groups by name.

use std::fs;

/// Looks names of users and groups up, where there are files to look them up in.
#[derive(Debug, Default)]
pub struct Names {
    users: String,
    groups: String,
}

impl Names {
    /// Of `/etc/passwd` and `/etc/group`. An image without them has no names, only numbers.
    #[must_use]
    pub fn of_system() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// The number of a user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<u32> {
        numbered(&self.users, name)
    }

    /// The number of a group.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        numbered(&self.groups, name)
    }
}

/// Of lines `name:password:number:...` the number of the one with this name.
fn numbered(lines: &str, name: &str) -> Option<u32> {
    let mut fields = lines.lines().map(|line| line.split(':'));
    fields
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1))?)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        let names = Names {
            users: "root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1400:1500::/:/bin/false\n".into(),
            groups: "root:x:0:\nmesh:x:1600:istio-proxy\n".into(),
        };
        assert_eq!(names.user("istio-proxy"), Some(1400));
        assert_eq!(names.group("mesh"), Some(1600));
        assert_eq!(names.user("mesh"), None);
        assert_eq!(names.group("istio"), None);
    }
}
