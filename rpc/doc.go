// Package rpc is how a node talks: to its clients by Connect, to the other
// nodes by a channel of frames, both on one port.
//
//	       clients (Connect, gRPC, curl)         other nodes
//	                 │                               │
//	          ┌──────▼───────────────────────────────▼──────┐
//	Listen ──►│ one listener, TLS 1.3 or loopback only      │
//	          └──────┬────────────────┬──────────────┬──────┘
//	     /blixard.v1.*/   /blixard.internal/*   /blixard.peer/v1
//	                 │                │              │
//	             Server ──────────► Logs, Blobs    Peers
//	                 │                               │
//	             Backend (Do, Read, Status)     core.Receive, PeerLost
//	                 └───────────► the node ◄────────┘
//
// A Server owns no state. A mutation becomes one blixardv1.Command, whose
// request id, principal and payload hash are filled in here, at the edge; a
// read becomes a frozen view of the state, and the answer is made from it
// outside of the node's loop. A host that is no server has no state to read:
// there the Server passes the request on to a server.
//
// # Identities
//
// Without TLS everybody is "anonymous", and Listen refuses any address beyond
// loopback. With it every channel is mutual: whoever connects must show a
// certificate of the CA, and whoever is connected to must show one that names
// the host dialled (SAN, as for any web server). The principal of a request is
// the certificate's common name. A certificate that may serve (extended key
// usage serverAuth) is a node's: only such a one may open the peers' channel
// and the internal paths, and speak for a client whose request it passes on.
// Give users certificates for clientAuth only.
package rpc
