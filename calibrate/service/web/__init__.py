"""Web page of the service: plain HTML, CSS and modules, with no build step and no dependency."""
