package v1beta1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Finalizer keeps a Cell until its instance is gone.
const Finalizer = "kip.elotl.co/instance"

// LabelNode is the label on a Cell that names the virtual node it belongs to.
const LabelNode = "kip.elotl.co/node"

// Cell is one cloud instance that runs one pod, from the wish to launch it to
// the proof that it is gone.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cl
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.pod.name`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.pod.namespace`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Instance-Type",type=string,JSONPath=`.status.launch.instanceType`
// +kubebuilder:printcolumn:name="Capacity-Type",type=string,JSONPath=`.status.launch.capacityType`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.status.launch.zone`
// +kubebuilder:printcolumn:name="USD/Hour",type=string,JSONPath=`.status.launch.hourlyUSD`
// +kubebuilder:printcolumn:name="Instance-ID",type=string,JSONPath=`.status.instanceID`
// +kubebuilder:printcolumn:name="IP",type=string,JSONPath=`.status.podIP`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Cell struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CellSpec   `json:"spec"`
	Status CellStatus `json:"status,omitempty"`
}

// CellList is a list of Cells.
//
// +kubebuilder:object:root=true
type CellList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Cell `json:"items"`
}

// CellSpec is the wish. The provider writes it; it may change only while no
// instance was launched (phase Pending). A standby cell's gets what its pod
// wishes together with Pod, which is set once.
type CellSpec struct {
	// NodeName is the virtual node whose pod this cell runs.
	NodeName string `json:"nodeName"`

	// Pod is the pod that this cell runs. Empty while the cell is a standby
	// cell; set once, never changed: a cell is single use.
	// +optional
	Pod *PodReference `json:"pod,omitempty"`

	// Standby is set for a cell that was launched before there was a pod for it,
	// and stays when it has one.
	// +optional
	Standby *StandbySpec `json:"standby,omitempty"`

	// Attempt counts the cells that were made for the same pod, from 0.
	// +optional
	Attempt int32 `json:"attempt,omitempty"`

	// Requirements say which offerings fit.
	Requirements Requirements `json:"requirements"`

	// Instance holds what the launch needs beside the offering.
	// +optional
	Instance InstanceSettings `json:"instance,omitempty"`
}

// PodReference names one pod for ever: a pod of the same name with another UID
// is another pod.
type PodReference struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

// CapacityType is how the instance is bought.
// +kubebuilder:validation:Enum=on-demand;spot
type CapacityType string

const (
	OnDemand CapacityType = "on-demand"
	Spot     CapacityType = "spot"
)

// Requirements say what an instance type, zone and capacity type must offer.
// An empty list means no restriction, but for Architectures.
type Requirements struct {
	// CPU and Memory are the pod's effective request, without what the cell
	// itself needs.
	CPU    resource.Quantity `json:"cpu"`
	Memory resource.Quantity `json:"memory"`

	// GPUs is the number of whole GPUs.
	// +optional
	GPUs int32 `json:"gpus,omitempty"`

	// GPUModels are accepted GPU names, such as "T4"; globs.
	// +optional
	GPUModels []string `json:"gpuModels,omitempty"`

	// Architectures are accepted ones in Kubernetes' words (amd64, arm64).
	// Empty means amd64.
	// +optional
	Architectures []string `json:"architectures,omitempty"`

	// Zones are accepted availability zones.
	// +optional
	Zones []string `json:"zones,omitempty"`

	// InstanceTypes are accepted type names; globs ("c6i.*").
	// +optional
	InstanceTypes []string `json:"instanceTypes,omitempty"`

	// CapacityTypes are accepted ones, of which the cheapest is bought; at the
	// same price the one that is named first. Empty means on-demand.
	// +optional
	CapacityTypes []CapacityType `json:"capacityTypes,omitempty"`

	// VolumeGiB is the size of the root volume in GiB; 0 means the
	// configuration's default.
	// +optional
	VolumeGiB int32 `json:"volumeGiB,omitempty"`
}

// InstanceSettings are the pod's wishes for its instance that do not change
// which offering is the cheapest.
type InstanceSettings struct {
	// PrivateIPOnly overrides the configuration's cells.privateIPOnly.
	// +optional
	PrivateIPOnly *bool `json:"privateIPOnly,omitempty"`
	// SecurityGroups are IDs of groups besides Kip's own.
	// +optional
	SecurityGroups []string `json:"securityGroups,omitempty"`
	// InstanceProfile is the ARN or name of the profile the instance gets.
	// +optional
	InstanceProfile string `json:"instanceProfile,omitempty"`
	// Routes are networks beyond the cloud's own, as canonical CIDRs, whose
	// traffic the cloud's route tables send to the instance.
	// +optional
	Routes []string `json:"routes,omitempty"`
	// HealthyTimeoutSeconds overrides the configuration's healthyTimeout: for how
	// long the cell may be unhealthy before it is given up, 0 for ever.
	// +optional
	// +kubebuilder:validation:Minimum=0
	HealthyTimeoutSeconds *int32 `json:"healthyTimeoutSeconds,omitempty"`
}

// CellPhase is where a cell is in its life.
type CellPhase string

const (
	// CellPending: no instance was asked for yet, or none could be had.
	CellPending CellPhase = "Pending"
	// CellLaunching: an offering was chosen and written down; the cloud is
	// being asked. From here on an instance may exist.
	CellLaunching CellPhase = "Launching"
	// CellBooting: the instance exists and has addresses.
	CellBooting CellPhase = "Booting"
	// CellStopped: a standby cell whose instance is stopped, or is being stopped,
	// until a pod takes it.
	CellStopped CellPhase = "Stopped"
	// CellReady: enrolled, no pod: a standby cell.
	CellReady CellPhase = "Ready"
	// CellBound: enrolled; the gateway shows the pod to the kubelet.
	CellBound CellPhase = "Bound"
	// CellRunning: the pod runs.
	CellRunning CellPhase = "Running"
	// CellDraining: the pod is ending or ended; its logs are being kept.
	CellDraining CellPhase = "Draining"
	// CellTerminating: termination was asked for; the instance may still exist.
	CellTerminating CellPhase = "Terminating"
)

// ConditionReady is the Cell's condition that tells users in plain words what
// the cell waits for. The pod's condition of type PodConditionCellReady carries
// the same reason and message.
const ConditionReady = "Ready"

// PodConditionCellReady is the type of the condition on pods.
const PodConditionCellReady = "kip.elotl.co/CellReady"

// Reasons of ConditionReady and PodConditionCellReady.
const (
	ReasonPending              = "Pending"
	ReasonNoInstanceTypeFits   = "NoInstanceTypeFits"
	ReasonInvalidPod           = "InvalidPod"
	ReasonLaunching            = "Launching"
	ReasonInsufficientCapacity = "InsufficientCapacity"
	ReasonSubnetFull           = "SubnetFull"
	ReasonQuotaExceeded        = "QuotaExceeded"
	ReasonThrottled            = "Throttled"
	ReasonDenied               = "Denied"
	ReasonInvalidConfiguration = "InvalidConfiguration"
	ReasonCloudError           = "CloudError"
	ReasonNotEntitled          = "NotEntitled"
	ReasonLimitReached         = "LimitReached"
	ReasonBooting              = "Booting"
	ReasonStopped              = "Stopped"
	ReasonEnrolled             = "Enrolled"
	ReasonEnrolmentRefused     = "EnrolmentRefused"
	ReasonAgentIncompatible    = "AgentIncompatible"
	ReasonDraining             = "Draining"
	ReasonUnhealthy            = "CellUnhealthy"
	ReasonTerminating          = "Terminating"
	ReasonInstanceGone         = "InstanceGone"
)

// CellStatus is what Kip knows. Launch is intent, written before the cloud is
// called; the rest is observed.
type CellStatus struct {
	// +optional
	Phase CellPhase `json:"phase,omitempty"`

	// Launch is the offering that was chosen last.
	// +optional
	Launch *LaunchStatus `json:"launch,omitempty"`

	// +optional
	InstanceID string `json:"instanceID,omitempty"`

	// NetworkInterfaceID is the instance's. Routes that lead to it are this
	// Cell's, also when the instance is gone.
	// +optional
	NetworkInterfaceID string `json:"networkInterfaceID,omitempty"`

	// PrimaryIP is the instance's own address, PodIP the pod's.
	// +optional
	PrimaryIP string `json:"primaryIP,omitempty"`
	// +optional
	PodIP string `json:"podIP,omitempty"`
	// +optional
	PublicIP string `json:"publicIP,omitempty"`

	// Enrolment is set, once, before the cell's certificate is handed out.
	// +optional
	Enrolment *EnrolmentStatus `json:"enrolment,omitempty"`

	// Standby is set, once, before a standby cell's kubelet is shown its pod.
	// +optional
	Standby *StandbyStatus `json:"standby,omitempty"`

	// Stop is set, once, before the cloud is asked to stop the instance of a standby
	// cell.
	// +optional
	Stop *StopStatus `json:"stop,omitempty"`

	// Interruption is set when the cloud says that it will take the instance,
	// before anything is done about it.
	// +optional
	Interruption *InterruptionStatus `json:"interruption,omitempty"`

	// Failure is set when Kip gave the cell up, before anything is done about it.
	// +optional
	Failure *FailureStatus `json:"failure,omitempty"`

	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LaunchStatus is one attempt to launch: an offering and the token that makes
// the cloud call idempotent.
type LaunchStatus struct {
	// Number counts the offerings that were tried for this cell, from 0.
	Number       int32        `json:"number"`
	InstanceType string       `json:"instanceType"`
	Zone         string       `json:"zone"`
	CapacityType CapacityType `json:"capacityType"`
	Architecture string       `json:"architecture"`
	// HourlyUSD is the whole estimated price: instance, surplus CPU credits,
	// root volume, public address.
	HourlyUSD string      `json:"hourlyUSD"`
	Time      metav1.Time `json:"time"`
	// Authorities are the IDs of the certificate authorities that the instance
	// was told to know Kip by. The first one's is the enrolment token.
	// +listType=atomic
	Authorities []string `json:"authorities,omitempty"`
}

// EnrolmentStatus binds the cell to the one key that enrolled.
type EnrolmentStatus struct {
	// KeySHA256 is the hex SHA-256 of the agent's public key
	// (SubjectPublicKeyInfo). No other key may enrol for this cell.
	KeySHA256 string      `json:"keySHA256"`
	Time      metav1.Time `json:"time"`
}
