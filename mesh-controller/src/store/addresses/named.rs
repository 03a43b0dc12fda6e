//! The addresses in an object.

use std::net::IpAddr;

use ipnet::IpNet;
use weir_config::{
    api::{Object, ObjectKey, Source, Spec},
    compile::reference::{FOREIGN_ENDPOINT, FOREIGN_VIRTUAL_ADDRESS, endpoint_place, network},
    diagnostic::{Diagnostic, Severity},
};

/// What an address is to the object that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Traffic goes there.
    Endpoint,
    /// The same, of a slice: Kubernetes sends there as well, and takes no loopback addresses.
    Slice,
    /// Clients connect to it, wherever that ends.
    Virtual,
    /// It is the object's own.
    Own,
}

/// An address, or a network, in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub(super) place: IpNet,
    pub(super) r#use: Use,
    field: Box<str>,
}

impl Named {
    /// All of them; those of slices are known by their pods.
    #[must_use]
    pub fn of(object: &Object) -> Box<[Self]> {
        let endpoint = |text: &String, field: &str| {
            Some(Self { place: endpoint_place(text)?, r#use: Use::Endpoint, field: field.into() })
        };
        match &object.spec {
            Spec::WorkloadEntry(spec) => {
                endpoint(&spec.address, "spec.address").into_iter().collect()
            }
            Spec::ServiceEntry(spec) => {
                let endpoints = spec.endpoints.iter().enumerate().filter_map(|(index, it)| {
                    endpoint(&it.address, &format!("spec.endpoints[{index}].address"))
                });
                let virtual_ones = spec.addresses.iter().enumerate();
                let virtual_ones = virtual_ones.filter_map(|(index, text)| {
                    let field = format!("spec.addresses[{index}]").into();
                    Some(Self { place: network(text)?, r#use: Use::Virtual, field })
                });
                endpoints.chain(virtual_ones).collect()
            }
            Spec::Service(spec) => {
                let all = spec.cluster_ips.iter().chain([&spec.cluster_ip]);
                let own = all.filter_map(|text| {
                    let address: IpAddr = text.parse().ok()?;
                    Some(Self { place: address.into(), r#use: Use::Own, field: Box::default() })
                });
                // Of a name it is known where it leads if it is loopback's.
                own.chain(endpoint(&spec.external_name, "spec.externalName")).collect()
            }
            _ => Box::default(),
        }
    }

    /// An endpoint of a slice.
    pub(in crate::store) fn in_slice(address: IpAddr, index: usize) -> Self {
        let field = format!("endpoints[{index}].addresses").into();
        Self { place: address.into(), r#use: Use::Slice, field }
    }

    /// What it is a warning to name it, when somebody else is there.
    pub(super) fn warning(&self, key: &ObjectKey) -> Diagnostic {
        let message = match self.r#use {
            Use::Endpoint | Use::Slice | Use::Own => FOREIGN_ENDPOINT,
            Use::Virtual => FOREIGN_VIRTUAL_ADDRESS,
        };
        Diagnostic {
            severity: Severity::Warning,
            object: Some(key.clone()),
            source: Source::default(),
            field: self.field.to_string(),
            message: message.to_owned(),
        }
    }
}
