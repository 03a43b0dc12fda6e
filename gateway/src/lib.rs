//! The proxy engine. The gateway is one user of it, the sidecar another.
//!
//! An exchange passes these stages, in this order; each is one call to one function in the file
//! named after it:
//!
//! | # | stage | file | ends the exchange with |
//! |---|---|---|---|
//! | 1 | accept | `listener/mod.rs` | overload: close |
//! | 2 | filter chain match | `listener/filter_chain.rs` | no chain: close, `NR` |
//! | 3 | downstream TLS | `listener/tls.rs` | handshake error, counted by reason |
//! | 4 | HTTP decode and strict check | `codec/h1`, `codec/h2` | 400 414 431 501 `DPE` |
//! | 5 | normalise | `http/normalize.rs` | 400 `DPE` |
//! | 6 | route | `route/mod.rs` | 404 `NR` |
//! | 7 | HTTP filters, request | `filter/mod.rs` | per filter |
//! | 8 | route action | `route/action.rs` | redirect, direct response |
//! | 9 | circuit breaker | `cluster/circuit_breaker.rs` | 503 `UO` |
//! | 10 | balance (per attempt) | `cluster/balancer.rs` | 503 `UH` |
//! | 11 | connect (per attempt) | `upstream/` | 503 `UF` |
//! | 12 | retry decision | `http/retry.rs` | `URX`, 504 `UT` |
//! | 13 | HTTP filters, response | `filter/mod.rs` | - |
//! | 14 | bodies, both ways at once | `http/stream.rs` | reset, never a clean end of a cut body |
//! | 15 | record | `telemetry/record.rs` | - |

pub mod app;
pub mod bootstrap;
pub mod canonical;
pub mod connection;
pub mod drain;
pub mod engine;
pub mod io;
pub mod last_in_line;
pub mod limits;
pub mod local_reply;
pub mod snapshot;

pub mod admin;
pub mod cluster;
pub mod codec;
pub mod demo;
pub mod discovery;
pub mod filter;
pub mod http;
pub mod listener;
pub mod route;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
