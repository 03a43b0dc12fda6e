use serde::Deserialize;

/// Refuse, pass on, or resolve the host and pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficPolicyMode {
    /// Only what is configured is reached.
    RegistryOnly,
    /// The rest goes where it was going.
    #[default]
    AllowAny,
    /// The rest goes where its host resolves to.
    AllowAnyDynamicDns,
}
