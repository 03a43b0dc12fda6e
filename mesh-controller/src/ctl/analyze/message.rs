//! What an analysis says, in the form and with the codes of istioctl.

use weir_config::{
    api::{Kind, ObjectKey, Source},
    diagnostic::{Diagnostic, Severity},
};

use crate::ctl::args::Level;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $says:literal;)*) => {
        /// What kind of finding it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// `IST0101`.
            pub fn number(self) -> &'static str {
                match self { $(Self::$name => $number,)* }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }
        }
    };
}

codes! {
    ReferencedResourceNotFound = "IST0101", "what an object refers to is not there";
    SchemaValidationError = "IST0106", "an object is not valid, and not applied";
    VirtualServiceDestinationPortSelectorRequired = "IST0112", "a destination with several ports names none";
    VirtualServiceUnreachableRule = "IST0130", "a rule of a VirtualService is never used";
    VirtualServiceIneffectiveMatch = "IST0131", "a match of a VirtualService's rule is never used";
    VirtualServiceHostNotFoundInGateway = "IST0132", "a VirtualService has no host that its Gateway serves";
    SchemaWarning = "IST0133", "part of an object has no effect, or another than it seems";
    ConflictingGateways = "IST0145", "two servers of Gateways cannot both be served";
    InvalidGatewayCredential = "IST0161", "a Secret has no certificate in it";
    UnknownDestinationRuleHost = "IST0174", "a DestinationRule is for a host that nothing defines";
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub code: Code,
    pub level: Level,
    pub object: Option<ObjectKey>,
    /// No file: it is in the cluster.
    pub source: Source,
    pub field: String,
    pub text: String,
}

impl Ord for Message {
    /// By object; of one object, the worst first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |it: &Self| (it.source.clone(), it.object.clone(), std::cmp::Reverse(it.level));
        key(self)
            .cmp(&key(other))
            .then_with(|| (self.code, &self.field).cmp(&(other.code, &other.field)))
            .then_with(|| self.text.cmp(&other.text))
    }
}

impl PartialOrd for Message {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Message {
    /// What reading or validating an object alone has found.
    pub fn schema(diagnostic: &Diagnostic) -> Self {
        let (mut code, mut level) = match diagnostic.severity {
            Severity::Error => (Code::SchemaValidationError, Level::Error),
            Severity::Warning => (Code::SchemaWarning, Level::Warning),
        };
        if is_unreachable(diagnostic) {
            (code, level) = match diagnostic.field.contains(".match[") {
                true => (Code::VirtualServiceIneffectiveMatch, Level::Info),
                false => (Code::VirtualServiceUnreachableRule, Level::Warning),
            };
        }
        if diagnostic.object.is_none() && diagnostic.severity == Severity::Warning {
            // A kind that is not Weir's; folders are full of them.
            level = Level::Info;
        }
        Self::new(code, level, diagnostic)
    }

    pub fn new(code: Code, level: Level, diagnostic: &Diagnostic) -> Self {
        let Diagnostic { object, source, field, message, .. } = diagnostic.clone();
        Self { code, level, object, source, field, text: message }
    }

    /// The object and the field it is about.
    pub fn place(&self) -> (Option<ObjectKey>, String) {
        (self.object.clone(), self.field.clone())
    }

    /// Whether it is about an object of that namespace, or of none. Files are always meant.
    pub fn is_about(&self, namespace: Option<&str>) -> bool {
        let (Some(namespace), Some(object)) = (namespace, &self.object) else { return true };
        !self.source.file.is_empty()
            || object.namespace.is_empty()
            || *object.namespace == *namespace
    }

    /// Where the object is written: `file:line`; empty in the cluster.
    pub fn reference(&self) -> String {
        if self.source.file.is_empty() { String::new() } else { self.source.to_string() }
    }

    pub fn documentation(&self) -> String {
        let page = self.code.number().to_ascii_lowercase();
        format!("https://istio.io/latest/docs/reference/config/analysis/{page}/")
    }
}

fn is_unreachable(diagnostic: &Diagnostic) -> bool {
    let of_virtual_service =
        diagnostic.object.as_ref().is_some_and(|object| object.kind == Kind::VirtualService);
    of_virtual_service && diagnostic.message.starts_with("never used: ")
}

/// What `--list-analyzers` prints.
pub fn list() -> String {
    let line = |code: &Code| format!("{} {}: {}\n", code.number(), code.name(), code.says());
    Code::ALL.iter().map(line).collect()
}
